//! Pure: coils and registers to a value and back, by the SDK's pipeline.
//!
//! Numbers made of coils have the first coil as their lowest bit; bytes made of coils are as the protocol packs them.

use mapper_sdk::pipeline::{Encoding, Pipeline, PipelineError};
use mapper_sdk::value::{Kind, Value};
use mapper_sdk::{Property, SettingError};

use crate::group::{Register, Span};
use crate::settings;

/// What a device holds in some registers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Data {
    /// Coils, discrete inputs.
    Bits(Vec<bool>),
    /// Input and holding registers.
    Words(Vec<u16>),
}

impl Data {
    /// Zeros of a span's size.
    #[must_use]
    pub fn zeros(span: Span) -> Self {
        if span.register.is_bits() {
            Self::Bits(vec![false; span.count.into()])
        } else {
            Self::Words(vec![0; span.count.into()])
        }
    }

    /// How many registers.
    #[must_use]
    pub fn count(&self) -> usize {
        match self {
            Self::Bits(bits) => bits.len(),
            Self::Words(words) => words.len(),
        }
    }

    /// Those of `part`, where this holds `whole`. `None`: they are not all in it.
    #[must_use]
    pub fn part(&self, whole: Span, part: Span) -> Option<Self> {
        let from = usize::from(part.address.checked_sub(whole.address)?);
        let range = from..from + usize::from(part.count);
        match self {
            Self::Bits(bits) => bits.get(range).map(|bits| Self::Bits(bits.to_vec())),
            Self::Words(words) => words.get(range).map(|words| Self::Words(words.to_vec())),
        }
    }
}

/// How one property's registers are its value.
#[derive(Clone, Debug, PartialEq)]
pub struct Codec {
    /// Where they are.
    pub span: Span,
    pipeline: Pipeline,
    /// A number of 32 bits that the model calls DOUBLE: told with the digits of 32 bits, 25.3 and not 25.299999237060547.
    is_widened: bool,
}

impl Codec {
    /// By a property's settings and model.
    pub fn of(property: &Property) -> Result<Self, SettingError> {
        let visitor = settings::visitor(property)?;
        let is_widened = visitor.encoding == Encoding::Float
            && visitor.span.count == 2
            && visitor.kind == Kind::Double
            && (visitor.scale, visitor.add) == (1.0, 0.0);
        let pipeline = Pipeline {
            swaps_bytes: visitor.swaps_bytes,
            swaps_registers: visitor.swaps_registers,
            encoding: visitor.encoding,
            mask: visitor.mask,
            shift: visitor.shift,
            scale: visitor.scale,
            offset: visitor.add,
            minimum: visitor.minimum,
            maximum: visitor.maximum,
            kind: if is_widened { Kind::Float } else { visitor.kind },
        };
        Ok(Self { span: visitor.span, pipeline, is_widened })
    }

    /// The value of what the device gave.
    pub fn read(&self, data: &Data) -> Result<Value, PipelineError> {
        let value = self.pipeline.read(&self.bytes(data))?;
        Ok(match value {
            Value::Float(single) if self.is_widened => {
                Value::Double(single.to_string().parse().unwrap_or_else(|_| f64::from(single)))
            }
            value => value,
        })
    }

    /// Whether what the device has now is needed for a write: bits outside of the mask stay.
    #[must_use]
    pub fn reads_first(&self) -> bool {
        self.pipeline.mask.is_some()
    }

    /// What makes the device show this value. `current`: what it has there now; its size is that of the answer.
    pub fn write(&self, value: &Value, current: &Data) -> Result<Data, PipelineError> {
        let bytes = self.pipeline.write(value, &self.bytes(current))?;
        Ok(match current {
            Data::Words(_) => Data::Words(
                bytes
                    .chunks(2)
                    .map(|pair| pair.iter().fold(0, |word, byte| (word << 8) | u16::from(*byte)))
                    .collect(),
            ),
            Data::Bits(bits) => {
                let mut packed = bytes;
                if self.pipeline.encoding != Encoding::Raw {
                    packed.reverse();
                }
                let set = packed.iter().flat_map(|byte| (0..8).map(move |bit| byte >> bit & 1 == 1));
                let set: Vec<bool> = set.collect();
                if let Some(beyond) = set.get(bits.len()..)
                    && beyond.contains(&true)
                {
                    return Err(PipelineError::Range {
                        value: value.to_string(),
                        minimum: 0.0,
                        maximum: 2_f64.powi(i32::from(self.span.count)) - 1.0,
                    });
                }
                Data::Bits(set.into_iter().take(bits.len()).collect())
            }
        })
    }

    /// Big end first, as the pipeline wants numbers.
    fn bytes(&self, data: &Data) -> Vec<u8> {
        match data {
            Data::Words(words) => words.iter().flat_map(|word| word.to_be_bytes()).collect(),
            Data::Bits(bits) => {
                let mut bytes: Vec<u8> = bits
                    .chunks(8)
                    .map(|bits| bits.iter().rev().fold(0, |byte, bit| (byte << 1) | u8::from(*bit)))
                    .collect();
                if self.pipeline.encoding != Encoding::Raw {
                    bytes.reverse();
                }
                bytes
            }
        }
    }

    /// Whether the property may be written at all, and at once.
    pub fn check_writable(&self) -> Result<(), SettingError> {
        let Span { register, count, .. } = self.span;
        match register {
            Register::DiscreteInput | Register::Input => Err(SettingError::Wrong {
                key: "register",
                expected: "CoilRegister or HoldingRegister for a property that is written",
            }),
            _ if count > register.most_written() => Err(SettingError::Wrong {
                key: "limit",
                expected: "at most 123 registers or 1968 coils for a property that is written",
            }),
            Register::Coil | Register::Holding => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;
