//! Columns of text, as kubectl prints them.

/// Rows under a heading, each column as wide as its widest cell. The last column is not filled up.
pub(crate) fn table(heading: &[&str], rows: &[Vec<String>]) -> String {
    let all: Vec<Vec<String>> =
        std::iter::once(heading.iter().map(|cell| (*cell).to_owned()).collect())
            .chain(rows.iter().cloned())
            .collect();
    let width = |column: usize| {
        all.iter()
            .filter_map(|row| row.get(column))
            .map(|cell| cell.chars().count())
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..heading.len()).map(width).collect();
    let mut text = String::new();
    for row in &all {
        let cells: Vec<String> = row
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:width$}"))
            .collect();
        text.push_str(cells.join("   ").trim_end());
        text.push('\n');
    }
    text
}

/// A cell that is never empty: a column that seems to be missing would be read as another.
pub(crate) fn cell(text: Option<&str>) -> String {
    text.filter(|text| !text.is_empty())
        .unwrap_or("-")
        .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = [
            vec!["fds".to_owned(), "P2".to_owned()],
            vec!["orderorchestrator".to_owned(), cell(None)],
        ];
        assert_eq!(
            table(&["SERVICE", "TIER"], &rows),
            "SERVICE             TIER\nfds                 P2\norderorchestrator   -\n"
        );
    }
}
