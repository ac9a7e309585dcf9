//! Pure: a device's bytes to a value and back.
//!
//! Reading goes down this list and writing comes up again: order of bytes and words, bits cut out, number scaled and
//! moved, range checked, made the model's type. Drivers call it for every sample; it keeps nothing.

use crate::value::{Kind, Value};

/// How bytes stand for a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// Unsigned, 1 to 8 bytes.
    Unsigned,
    /// Two's complement, 1 to 8 bytes.
    Signed,
    /// IEEE 754, 4 or 8 bytes.
    Float,
    /// No number: text or bytes as they are.
    Raw,
}

/// Everything between a device and its property. The defaults change nothing.
#[derive(Clone, Debug, PartialEq)]
pub struct Pipeline {
    /// Swap the two bytes of each 16-bit register.
    pub swaps_bytes: bool,
    /// Take the registers in reverse.
    pub swaps_registers: bool,
    /// How the bytes are a number.
    pub encoding: Encoding,
    /// Only these bits count; of whole numbers only.
    pub mask: Option<u64>,
    /// Bits are moved down by this much after the mask; of whole numbers only. 0 to 63.
    pub shift: u32,
    /// Value = number x scale + offset. Not 0.
    pub scale: f64,
    /// Added after scaling.
    pub offset: f64,
    /// A value outside is refused, both ways.
    pub minimum: Option<f64>,
    /// A value outside is refused, both ways.
    pub maximum: Option<f64>,
    /// The model's type.
    pub kind: Kind,
}

impl Pipeline {
    /// One that only turns bytes into this type.
    #[must_use]
    pub fn plain(encoding: Encoding, kind: Kind) -> Self {
        Self {
            swaps_bytes: false,
            swaps_registers: false,
            encoding,
            mask: None,
            shift: 0,
            scale: 1.0,
            offset: 0.0,
            minimum: None,
            maximum: None,
            kind,
        }
    }
}

/// Why a sample or a wish goes no further. Each names what the user can change.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum PipelineError {
    /// The device gave, or has room for, a number of bytes that the encoding cannot have.
    #[error("{n_bytes} bytes are no {encoding:?} number: it has {wanted}")]
    Width {
        /// What there is.
        n_bytes: usize,
        /// The encoding.
        encoding: Encoding,
        /// What there must be.
        wanted: &'static str,
    },
    /// Infinite, or not a number at all.
    #[error("the device gave no number")]
    NotFinite,
    /// Outside what the model or the device allows.
    #[error("{value} is outside of {minimum} to {maximum}")]
    Range {
        /// The value.
        value: String,
        /// Lowest that is allowed.
        minimum: f64,
        /// Highest that is allowed.
        maximum: f64,
    },
    /// More than the model's type holds.
    #[error("{0} is more than INT holds: 64 bits with a sign; use DOUBLE or a scale")]
    TooLarge(String),
    /// A text where a number is wanted, or the other way round.
    #[error("{0} cannot be written to this property")]
    Type(String),
}

/// A number on its way: whole ones stay whole as long as nothing scales them.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Number {
    Whole(i128),
    Real(f64),
}

impl Pipeline {
    /// The value of what the device gave, big end first as field buses send it.
    pub fn read(&self, raw: &[u8]) -> Result<Value, PipelineError> {
        let bytes = self.arranged(raw);
        if self.encoding == Encoding::Raw {
            return Ok(match self.kind {
                Kind::Text => Value::Text(String::from_utf8_lossy(&bytes).trim_end_matches('\0').to_owned()),
                Kind::Bool => Value::Bool(bytes.iter().any(|byte| *byte != 0)),
                Kind::Bytes | Kind::Int | Kind::Float | Kind::Double => Value::Bytes(bytes),
            });
        }
        let number = self.scaled(self.cut(self.decoded(&bytes)?));
        let value = self.typed(number)?;
        self.check(&value)?;
        Ok(value)
    }

    /// The bytes that make the device show this value. `current`: what the device has there now, as it gave it; its length
    /// is that of the answer, and bits outside of the mask stay.
    pub fn write(&self, value: &Value, current: &[u8]) -> Result<Vec<u8>, PipelineError> {
        if self.encoding == Encoding::Raw {
            let mut bytes = match value {
                Value::Text(text) => text.as_bytes().to_vec(),
                Value::Bytes(bytes) => bytes.clone(),
                Value::Bool(is) => vec![u8::from(*is)],
                other => return Err(PipelineError::Type(other.to_string())),
            };
            if bytes.len() > current.len() {
                return Err(PipelineError::Width {
                    n_bytes: bytes.len(),
                    encoding: self.encoding,
                    wanted: "no more than the device has room for",
                });
            }
            bytes.resize(current.len(), 0);
            return Ok(self.arranged(&bytes));
        }
        self.check(value)?;
        let number = self.unscaled(value)?;
        let bytes = match (self.encoding, number) {
            (Encoding::Float, number) => {
                let real = number.real();
                match current.len() {
                    4 => {
                        #[expect(clippy::cast_possible_truncation, reason = "the device has 32 bits")]
                        let single = real as f32;
                        if !single.is_finite() {
                            return Err(self.out_of_range(value, f64::from(f32::MIN), f64::from(f32::MAX)));
                        }
                        single.to_be_bytes().to_vec()
                    }
                    8 => real.to_be_bytes().to_vec(),
                    n_bytes => return Err(self.width(n_bytes)),
                }
            }
            (_, number) => self.encoded(value, number.rounded(), current)?,
        };
        Ok(self.arranged(&bytes))
    }

    /// Swaps are their own inverse, so one function serves both ways.
    fn arranged(&self, raw: &[u8]) -> Vec<u8> {
        let mut registers: Vec<&[u8]> = raw.chunks(2).collect();
        if self.swaps_registers {
            registers.reverse();
        }
        let mut bytes = Vec::with_capacity(raw.len());
        for register in registers {
            if self.swaps_bytes {
                bytes.extend(register.iter().rev());
            } else {
                bytes.extend(register);
            }
        }
        bytes
    }

    fn decoded(&self, bytes: &[u8]) -> Result<Number, PipelineError> {
        let is_negative = bytes.first().is_some_and(|byte| byte & 0x80 != 0);
        let unsigned = || bytes.iter().fold(0_i128, |number, byte| (number << 8) | i128::from(*byte));
        match (self.encoding, bytes.len()) {
            (Encoding::Unsigned, 1..=8) => Ok(Number::Whole(unsigned())),
            (Encoding::Signed, n_bytes @ 1..=8) => {
                let lowest = if is_negative { -(1_i128 << (8 * n_bytes)) } else { 0 };
                Ok(Number::Whole(lowest + unsigned()))
            }
            (Encoding::Float, 4 | 8) => {
                let real = match <[u8; 4]>::try_from(bytes) {
                    Ok(bytes) => f64::from(f32::from_be_bytes(bytes)),
                    Err(_) => <[u8; 8]>::try_from(bytes).map_or(f64::NAN, f64::from_be_bytes),
                };
                if real.is_finite() { Ok(Number::Real(real)) } else { Err(PipelineError::NotFinite) }
            }
            (_, n_bytes) => Err(self.width(n_bytes)),
        }
    }

    fn cut(&self, number: Number) -> Number {
        match number {
            Number::Whole(whole) if self.mask.is_some() || self.shift > 0 => {
                let masked = self.mask.map_or(whole, |mask| whole & i128::from(mask));
                Number::Whole(masked >> self.shift.min(63))
            }
            number => number,
        }
    }

    fn is_scaled(&self) -> bool {
        (self.scale, self.offset) != (1.0, 0.0)
    }

    fn scaled(&self, number: Number) -> Number {
        if self.is_scaled() { Number::Real(number.real() * self.scale + self.offset) } else { number }
    }

    fn unscaled(&self, value: &Value) -> Result<Number, PipelineError> {
        let number = match value {
            Value::Int(whole) => Number::Whole(i128::from(*whole)),
            other => Number::Real(other.number().ok_or_else(|| PipelineError::Type(other.to_string()))?),
        };
        let number =
            if self.is_scaled() { Number::Real((number.real() - self.offset) / self.scale) } else { number };
        if number.real().is_finite() { Ok(number) } else { Err(PipelineError::NotFinite) }
    }

    #[expect(clippy::cast_possible_truncation, reason = "FLOAT has 32 bits")]
    fn typed(&self, number: Number) -> Result<Value, PipelineError> {
        Ok(match self.kind {
            Kind::Int => {
                let whole = number.rounded();
                Value::Int(i64::try_from(whole).map_err(|_| PipelineError::TooLarge(whole.to_string()))?)
            }
            Kind::Float => Value::Float(number.real() as f32),
            Kind::Double => Value::Double(number.real()),
            Kind::Bool => Value::Bool(number.real() != 0.0),
            Kind::Text => Value::Text(match number {
                Number::Whole(whole) => whole.to_string(),
                Number::Real(real) => Value::Double(real).to_string(),
            }),
            Kind::Bytes => return Err(PipelineError::Type("a number".to_owned())),
        })
    }

    fn encoded(&self, value: &Value, whole: i128, current: &[u8]) -> Result<Vec<u8>, PipelineError> {
        let n_bytes = current.len();
        if !(1..=8).contains(&n_bytes) {
            return Err(self.width(n_bytes));
        }
        let all_bits = (1_i128 << (8 * n_bytes)) - 1;
        let moved = whole << self.shift.min(63);
        let (bits, lowest, highest) = match self.mask {
            Some(mask) => (moved, 0, i128::from(mask) & all_bits),
            None if self.encoding == Encoding::Signed => {
                (moved & all_bits, -(all_bits / 2) - 1, all_bits / 2)
            }
            None => (moved, 0, all_bits),
        };
        let fits = match self.mask {
            Some(_) => moved >= 0 && moved & !highest == 0,
            None => (lowest..=highest).contains(&moved),
        };
        if !fits {
            let limit = |whole: i128| self.scaled(Number::Whole(whole >> self.shift.min(63))).real();
            let (one, other) = (limit(lowest), limit(highest));
            return Err(self.out_of_range(value, one.min(other), one.max(other)));
        }
        let bits = match self.mask {
            Some(mask) => {
                let held =
                    self.arranged(current).iter().fold(0_i128, |bits, byte| (bits << 8) | i128::from(*byte));
                (held & !i128::from(mask)) | bits
            }
            None => bits,
        };
        Ok(bits.to_be_bytes().into_iter().skip(16 - n_bytes).collect())
    }

    fn check(&self, value: &Value) -> Result<(), PipelineError> {
        let Some(number) = value.number() else { return Ok(()) };
        let is_low = self.minimum.is_some_and(|minimum| number < minimum);
        let is_high = self.maximum.is_some_and(|maximum| number > maximum);
        if is_low || is_high {
            let (lowest, highest) = (f64::NEG_INFINITY, f64::INFINITY);
            return Err(self.out_of_range(
                value,
                self.minimum.unwrap_or(lowest),
                self.maximum.unwrap_or(highest),
            ));
        }
        Ok(())
    }

    fn out_of_range(&self, value: &Value, minimum: f64, maximum: f64) -> PipelineError {
        PipelineError::Range { value: value.to_string(), minimum, maximum }
    }

    fn width(&self, n_bytes: usize) -> PipelineError {
        let wanted = match self.encoding {
            Encoding::Float => "4 or 8",
            Encoding::Unsigned | Encoding::Signed | Encoding::Raw => "1 to 8",
        };
        PipelineError::Width { n_bytes, encoding: self.encoding, wanted }
    }
}

impl Number {
    #[expect(clippy::cast_precision_loss, reason = "what is scaled is a 64-bit float anyhow")]
    fn real(self) -> f64 {
        match self {
            Self::Whole(whole) => whole as f64,
            Self::Real(real) => real,
        }
    }

    #[expect(clippy::cast_possible_truncation, reason = "saturates, and is range-checked by whoever asked")]
    fn rounded(self) -> i128 {
        match self {
            Self::Whole(whole) => whole,
            Self::Real(real) => real.round() as i128,
        }
    }
}

#[cfg(test)]
mod tests;
