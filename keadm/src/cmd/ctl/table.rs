//! Pure: rows of words as kubectl's tables.

use k8s_openapi::jiff::Timestamp;

/// How a table is wanted.
pub(super) struct Look {
    pub(super) is_wide: bool,
    pub(super) with_namespace: bool,
    pub(super) now: Timestamp,
}

/// A column is as wide as its widest word and three blanks; the last one ends with its words.
pub(in crate::cmd) fn table(rows: &[Vec<String>]) -> String {
    let n_columns = rows.iter().map(Vec::len).max().unwrap_or_default();
    let width = |column: usize| {
        let words = rows.iter().filter_map(|row| row.get(column));
        // kubectl's narrowest column.
        words.map(|word| word.chars().count() + 3).max().unwrap_or_default().max(6)
    };
    let widths: Vec<usize> = (0..n_columns).map(width).collect();
    let mut text = String::new();
    for row in rows {
        for (index, (word, width)) in row.iter().zip(&widths).enumerate() {
            if index + 1 < row.len() {
                text += &format!("{word:<width$}");
            } else {
                text += word;
            }
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_kubectls() {
        let row = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        let rows = [row(&["NAME", "A", "AGE"]), row(&["a-long-name", "1", "2d"]), row(&["b", "", "3"])];
        assert_eq!(table(&rows), "NAME          A     AGE\na-long-name   1     2d\nb                   3\n");
        assert_eq!(table(&[]), "");
    }
}
