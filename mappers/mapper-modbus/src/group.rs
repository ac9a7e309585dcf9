//! Pure: properties that are due together to as few requests as the protocol allows.
//!
//! Neighbours of one kind share a request; so do those with up to [`GAP`] others between them, which are read for nothing:
//! that is cheaper than another round trip. A device may refuse those in between, or one of the neighbours; then its spans
//! are kept [`apart`](Grouping::set_apart) from then on. Called by the driver.

use std::collections::BTreeSet;

/// Registers or coils between two properties that are read along with them.
pub const GAP: u32 = 8;

/// The four kinds of register.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Register {
    /// One bit, may be written.
    Coil,
    /// One bit.
    DiscreteInput,
    /// 16 bits.
    Input,
    /// 16 bits, may be written.
    Holding,
}

impl Register {
    /// Whether it is one bit rather than 16.
    #[must_use]
    pub fn is_bits(self) -> bool {
        matches!(self, Self::Coil | Self::DiscreteInput)
    }

    /// How many may be read at once.
    #[must_use]
    pub fn most(self) -> u16 {
        if self.is_bits() { 2000 } else { 125 }
    }

    /// How many may be written at once; none of those that can only be read.
    #[must_use]
    pub fn most_written(self) -> u16 {
        match self {
            Self::Coil => 1968,
            Self::Holding => 123,
            Self::DiscreteInput | Self::Input => 0,
        }
    }

    /// As manifests name it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Coil => "CoilRegister",
            Self::DiscreteInput => "DiscreteInputRegister",
            Self::Input => "InputRegister",
            Self::Holding => "HoldingRegister",
        }
    }
}

/// Registers in a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span {
    /// Their kind.
    pub register: Register,
    /// The first.
    pub address: u16,
    /// How many; at least 1.
    pub count: u16,
}

impl Span {
    /// The address after the last: up to 65536.
    #[must_use]
    pub fn end(self) -> u32 {
        u32::from(self.address) + u32::from(self.count)
    }
}

impl std::fmt::Display for Span {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.register.name(), self.address)?;
        if self.count > 1 { write!(f, " to {}", self.end() - 1) } else { Ok(()) }
    }
}

/// One request and what it is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// What is read.
    pub span: Span,
    /// Which of the spans it covers: their places in the list that was given.
    pub members: Vec<usize>,
}

/// What was learned about a device: which spans do not share a request.
#[derive(Clone, Debug, Default)]
pub struct Grouping {
    apart: BTreeSet<Span>,
}

impl Grouping {
    /// From now on this span shares a request only with the very same one.
    pub fn set_apart(&mut self, span: Span) {
        self.apart.insert(span);
    }

    /// Requests that cover each span once, none above the protocol's limit unless a span is by itself.
    #[must_use]
    pub fn requests(&self, spans: &[Span]) -> Vec<Request> {
        let mut ordered: Vec<(Span, usize)> =
            spans.iter().enumerate().map(|(place, span)| (*span, place)).collect();
        ordered.sort_unstable();
        let mut requests: Vec<Request> = Vec::new();
        for (span, place) in ordered {
            if let Some(last) = requests.last_mut()
                && let Some(joined) = self.joined(last.span, span)
            {
                last.span = joined;
                last.members.push(place);
            } else {
                requests.push(Request { span, members: vec![place] });
            }
        }
        requests
    }

    /// One span for both, if they may share a request. `next` does not begin before `last`.
    fn joined(&self, last: Span, next: Span) -> Option<Span> {
        if last == next {
            return Some(last);
        }
        // A request is never led across a span that is set apart: it would be refused again.
        if last.register != next.register || self.apart.contains(&last) || self.apart.contains(&next) {
            return None;
        }
        let end = last.end().max(next.end());
        let count = u16::try_from(end - u32::from(last.address)).ok()?;
        let is_near = u32::from(next.address) <= last.end() + GAP;
        (is_near && count <= last.register.most()).then_some(Span { count, ..last })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn input(address: u16, count: u16) -> Span {
        Span { register: Register::Input, address, count }
    }

    #[test]
    fn neighbours_share_a_request() {
        let check = |spans: &[Span], expected: &[(u16, u16, &[usize])]| {
            let requests = Grouping::default().requests(spans);
            let found: Vec<(u16, u16, &[usize])> =
                requests.iter().map(|r| (r.span.address, r.span.count, r.members.as_slice())).collect();
            assert_eq!(found, expected);
        };
        check(&[], &[]);
        check(&[input(4, 1), input(0, 2), input(2, 2)], &[(0, 5, &[1, 2, 0])]);
        check(&[input(0, 1), input(9, 1)], &[(0, 10, &[0, 1])]);
        check(&[input(0, 1), input(10, 1)], &[(0, 1, &[0]), (10, 1, &[1])]);
        check(&[input(0, 100), input(100, 25), input(125, 1)], &[(0, 125, &[0, 1]), (125, 1, &[2])]);
        // The same register twice, and one inside of another.
        check(&[input(3, 4), input(4, 1), input(4, 1)], &[(3, 4, &[0, 1, 2])]);
        check(&[input(65535, 1), input(65534, 1)], &[(65534, 2, &[1, 0])]);
        let coil = Span { register: Register::Coil, address: 0, count: 1 };
        check(&[input(0, 1), coil], &[(0, 1, &[1]), (0, 1, &[0])]);
    }

    #[test]
    fn what_was_refused_stays_apart() {
        let mut grouping = Grouping::default();
        grouping.set_apart(input(1, 1));
        let requests = grouping.requests(&[input(0, 1), input(1, 1), input(2, 1), input(3, 1), input(1, 1)]);
        let members: Vec<Vec<usize>> = requests.into_iter().map(|request| request.members).collect();
        assert_eq!(members, [vec![0], vec![1, 4], vec![2, 3]]);
    }

    fn spans() -> impl Strategy<Value = Vec<Span>> {
        let register = prop_oneof![
            Just(Register::Coil),
            Just(Register::DiscreteInput),
            Just(Register::Input),
            Just(Register::Holding)
        ];
        let span = (register, 0_u16..3000, 1_u16..=125).prop_map(|(register, address, count)| Span {
            register,
            address,
            count,
        });
        proptest::collection::vec(span, 0..60)
    }

    proptest! {
        #[test]
        fn each_span_is_in_one_request(spans in spans(), apart in proptest::collection::vec(0_usize..60, 0..5)) {
            let mut grouping = Grouping::default();
            for span in apart.iter().filter_map(|place| spans.get(*place)) {
                grouping.set_apart(*span);
            }
            let mut seen = vec![0; spans.len()];
            for request in grouping.requests(&spans) {
                prop_assert!(request.span.count <= request.span.register.most());
                for member in request.members {
                    seen[member] += 1;
                    let span = spans[member];
                    prop_assert_eq!(span.register, request.span.register);
                    prop_assert!(request.span.address <= span.address && span.end() <= request.span.end());
                }
            }
            prop_assert!(seen.iter().all(|times| *times == 1));
        }
    }
}
