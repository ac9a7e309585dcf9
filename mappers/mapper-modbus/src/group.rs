//! Pure: what lies together on a device is read with one request.

use crate::settings::{Span, Table};

/// One request and the spans that it answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Group {
    pub(crate) span: Span,
    /// Indexes of the spans that were given.
    pub(crate) members: Vec<usize>,
}

/// How far spans are put together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limits {
    /// Registers of one request; the protocol allows 125.
    pub(crate) registers: u16,
    /// Coils of one request; the protocol allows 2000.
    pub(crate) coils: u16,
    /// So many that nobody asked for may lie between. More than 0 only where the device answers for all of them.
    pub(crate) gap: u16,
}

impl Default for Limits {
    fn default() -> Self {
        Self { registers: 125, coils: 2000, gap: 0 }
    }
}

impl Limits {
    pub(crate) fn of(&self, table: Table) -> u16 {
        if table.is_bits() { self.coils } else { self.registers }
    }
}

/// The fewest requests, in rising order. A span that is larger than the limit stands alone.
pub(crate) fn groups(spans: &[Span], limits: Limits) -> Vec<Group> {
    let mut order: Vec<(usize, &Span)> = spans.iter().enumerate().collect();
    order.sort_by_key(|(index, span)| (span.table, span.offset, *index));
    let mut groups = Vec::<Group>::new();
    for (index, span) in order {
        if let Some(last) = groups.last_mut()
            && last.span.table == span.table
        {
            let is_near = u32::from(span.offset) <= last.span.end() + u32::from(limits.gap);
            let end = last.span.end().max(span.end());
            let n = end - u32::from(last.span.offset);
            if is_near
                && n <= u32::from(limits.of(span.table))
                && let Ok(n) = u16::try_from(n)
            {
                last.span.n = n;
                last.members.push(index);
                continue;
            }
        }
        groups.push(Group { span: *span, members: vec![index] });
    }
    groups
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn adjacent_ones_go_together() {
        let check = |spans: &[(Table, u16, u16)], gap: u16, expected: &[(u16, u16, &[usize])]| {
            let spans: Vec<Span> = spans
                .iter()
                .map(|(table, offset, n)| Span { table: *table, offset: *offset, n: *n })
                .collect();
            let groups = groups(&spans, Limits { gap, ..Limits::default() });
            let found: Vec<(u16, u16, &[usize])> = groups
                .iter()
                .map(|group| (group.span.offset, group.span.n, group.members.as_slice()))
                .collect();
            assert_eq!(found, expected, "{spans:?}");
        };
        use Table::{Coil, Holding, Input};
        check(&[], 0, &[]);
        check(&[(Holding, 1, 1), (Holding, 0, 1)], 0, &[(0, 2, &[1, 0])]);
        check(&[(Holding, 0, 1), (Holding, 2, 1)], 0, &[(0, 1, &[0]), (2, 1, &[1])]);
        check(&[(Holding, 0, 1), (Holding, 2, 1)], 1, &[(0, 3, &[0, 1])]);
        check(&[(Holding, 0, 4), (Holding, 1, 2), (Holding, 4, 1)], 0, &[(0, 5, &[0, 1, 2])]);
        check(&[(Holding, 0, 1), (Input, 1, 1)], 0, &[(1, 1, &[1]), (0, 1, &[0])]);
        check(&[(Holding, 0, 124), (Holding, 124, 2)], 0, &[(0, 124, &[0]), (124, 2, &[1])]);
        check(
            &[(Coil, 0, 1999), (Coil, 1999, 1), (Coil, 2000, 1)],
            0,
            &[(0, 2000, &[0, 1]), (2000, 1, &[2])],
        );
        check(&[(Holding, 65534, 1), (Holding, 65535, 1)], 0, &[(65534, 2, &[0, 1])]);
    }

    proptest! {
        #[test]
        fn each_is_read_once_and_within_its_group(raw in proptest::collection::vec((0_u16..300, 1_u16..10, any::<bool>()), 0..60)) {
            let table = |is_coil: bool| if is_coil { Table::Coil } else { Table::Holding };
            let spans: Vec<Span> = raw.into_iter().map(|(offset, n, is_coil)| Span { table: table(is_coil), offset, n }).collect();
            let groups = groups(&spans, Limits::default());
            let mut seen: Vec<usize> = groups.iter().flat_map(|group| group.members.clone()).collect();
            seen.sort_unstable();
            prop_assert_eq!(seen, (0..spans.len()).collect::<Vec<_>>());
            for group in &groups {
                prop_assert!(group.span.n <= Limits::default().of(group.span.table));
                for member in &group.members {
                    let span = spans[*member];
                    prop_assert_eq!(span.table, group.span.table);
                    prop_assert!(span.offset >= group.span.offset && span.end() <= group.span.end());
                }
            }
        }
    }
}
