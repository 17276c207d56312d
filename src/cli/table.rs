//! Tables, aligned by the width of characters on a terminal.

use super::color::{Color, Tone};

/// Columns as wide as their widest cell, [`WIDEST`] at most; the last one is as long as it is.
pub struct Table<const N: usize> {
    head: [&'static str; N],
    rows: Vec<[Cell; N]>,
}

/// One cell: a text and its color.
#[derive(Clone, Debug, Default)]
pub struct Cell {
    text: String,
    tone: Tone,
}

impl Cell {
    /// A cell with a color.
    pub fn new(text: impl Into<String>, tone: Tone) -> Self {
        let text = text.into();
        Self { text, tone }
    }
}

impl<T: Into<String>> From<T> for Cell {
    fn from(text: T) -> Self {
        Self::new(text, Tone::Plain)
    }
}

impl<const N: usize> Table<N> {
    /// A table without rows.
    pub fn new(head: &[&'static str; N]) -> Self {
        Self {
            head: *head,
            rows: Vec::new(),
        }
    }

    /// Adds a row.
    pub fn row(&mut self, cells: [Cell; N]) {
        self.rows.push(cells);
    }

    /// Whether there are no rows.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// After a cell that is too long for its column the row continues on the next line, so that nothing
    /// is cut off and columns stay aligned.
    pub fn render(&self, color: Color) -> String {
        let head = self.head.map(|title| Cell::new(title, Tone::Faint));
        let all = || std::iter::once(&head).chain(&self.rows);
        let mut widths = [0; N];
        for row in all() {
            for (column, cell) in widths.iter_mut().zip(row) {
                *column = width(&cell.text).min(WIDEST).max(*column);
            }
        }
        all().map(|row| line(row, &widths, color)).collect()
    }
}

fn line(row: &[Cell], widths: &[usize], color: Color) -> String {
    let (mut out, mut at, mut start) = (String::new(), 0, 0);
    for (cell, column) in row.iter().zip(widths) {
        if !cell.text.is_empty() {
            if at > 0 && at + GAP > start {
                out.push('\n');
                at = 0;
            }
            out.extend(std::iter::repeat_n(' ', start - at));
            out += &color.paint(cell.tone, &cell.text);
            at = start + width(&cell.text);
        }
        start += column + GAP;
    }
    out.push('\n');
    out
}

/// Columns on a terminal: wide East Asian characters and emoji take two, combining marks none.
fn width(text: &str) -> usize {
    text.chars().map(places).sum()
}

/// After Unicode's East Asian Width (UAX 11), by blocks.
fn places(c: char) -> usize {
    match c {
        '\u{300}'..='\u{36f}'
        | '\u{1ab0}'..='\u{1aff}'
        | '\u{1dc0}'..='\u{1dff}'
        | '\u{20d0}'..='\u{20ff}'
        | '\u{fe00}'..='\u{fe0f}'
        | '\u{fe20}'..='\u{fe2f}' => 0,
        '\u{1100}'..='\u{115f}'
        | '\u{2e80}'..='\u{303e}'
        | '\u{3041}'..='\u{a4cf}'
        | '\u{ac00}'..='\u{d7a3}'
        | '\u{f900}'..='\u{faff}'
        | '\u{fe30}'..='\u{fe6f}'
        | '\u{ff00}'..='\u{ff60}'
        | '\u{ffe0}'..='\u{ffe6}'
        | '\u{1f300}'..='\u{1f64f}'
        | '\u{1f680}'..='\u{1f6ff}'
        | '\u{1f900}'..='\u{1f9ff}'
        | '\u{20000}'..='\u{3fffd}' => 2,
        _ => 1,
    }
}

/// An IPv6 VIP with its length fits.
const WIDEST: usize = 43;
const GAP: usize = 2;

#[cfg(test)]
mod tests {
    use super::*;

    fn table(rows: &[[&str; 3]]) -> String {
        let mut table = Table::new(&["APP", "STATE", "WHY"]);
        for row in rows {
            table.row(row.map(Cell::from));
        }
        table.render(Color::OFF)
    }

    #[test]
    fn a_long_name_moves_no_column() {
        let long = "x".repeat(250);
        let got = table(&[
            ["dns", "up", "all pass"],
            [&long, "down", "port"],
            ["b", "up", ""],
        ]);
        let far = " ".repeat(WIDEST - 3);
        let want = format!(
            "APP{far}  STATE  WHY\ndns{far}  up     all pass\n{long}\n   {far}  down   port\nb{}  up\n",
            " ".repeat(WIDEST - 1)
        );
        assert_eq!(got, want);
    }

    #[test]
    fn one_that_just_fits_keeps_its_line() {
        let fits = "x".repeat(WIDEST);
        let got = table(&[[&fits, "up", "w"]]);
        assert!(got.ends_with(&format!("\n{fits}  up     w\n")), "{got}");
        let got = table(&[["a", "b", "c"]]);
        assert_eq!(got, "APP  STATE  WHY\na    b      c\n");
    }

    #[test]
    fn what_looks_wide_is_counted_so() {
        assert_eq!(width("名前"), 4);
        assert_eq!(width("e\u{301}é"), 2);
        assert_eq!(
            table(&[["名", "up", "w"]]),
            "APP  STATE  WHY\n名   up     w\n"
        );
    }

    #[test]
    fn colors_take_no_place() {
        let mut table = Table::new(&["A", "B"]);
        table.row([Cell::new("up", Tone::Good), "x".into()]);
        let got = table.render(Color::ON);
        assert!(got.ends_with("\x1b[32mup\x1b[0m  x\n"), "{got:?}");
    }
}
