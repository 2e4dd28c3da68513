//! What verbs show to people: progress bars, sizes and tables.
//!
//! Results go to standard output, everything else to standard error, so that a pipe gets results
//! alone. Progress bars appear only where standard error is a terminal.

use std::fmt;
use std::io::Write;

use anyhow::{Context, Result};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

/// What a progress bar counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Things, such as windows of text.
    Items,
    /// Bytes.
    Bytes,
}

/// A progress bar over `total` units on standard error, invisible where that is no terminal. It
/// clears itself when dropped; its message can be set along the way.
pub fn progress(total: u64, unit: Unit, doing: &str) -> ProgressBar {
    let counters = match unit {
        Unit::Items => "{pos}/{len}",
        Unit::Bytes => "{decimal_bytes}/{decimal_total_bytes}",
    };
    let template = format!("{{prefix}} [{{bar:30}}] {counters} {{eta}} left  {{wide_msg}}");
    let style = ProgressStyle::with_template(&template)
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .progress_chars("=> ");
    let bar = ProgressBar::new(total).with_style(style);
    bar.set_prefix(doing.to_owned());
    bar
}

/// Writes `text` to standard output. Unlike `print!`, a reader that went away is an error here
/// and no panic.
pub fn print(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    let written = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    written.context("standard output")
}

/// Writes `value` to standard output as JSON, indented, with a final newline.
pub fn print_json(value: &impl Serialize) -> Result<()> {
    print(&(serde_json::to_string_pretty(value)? + "\n"))
}

/// A size in decimal units with three digits, such as `1.90 GB`.
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["kB", "MB", "GB", "TB", "PB"];
    if bytes < 1000 {
        return format!("{bytes} B");
    }
    let (mut value, mut unit) = (bytes as f64 / 1000.0, 0);
    // From 999.5 on, three digits would show 1000.
    while value >= 999.5 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    format!("{} {}", digits(value), UNITS[unit])
}

/// A number with three significant digits, or all its whole ones.
pub fn digits(value: f64) -> String {
    let decimals = match value.abs() {
        v if v < 9.995 => 2,
        v if v < 99.95 => 1,
        _ => 0,
    };
    format!("{value:.decimals$}")
}

/// On which side of its column a cell stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Align {
    /// Text.
    Left,
    /// Numbers.
    Right,
}

/// A table that reads well in a terminal and is Markdown too.
#[derive(Clone, Debug)]
pub struct Table {
    columns: Vec<(String, Align)>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with these column titles.
    pub fn new(columns: &[(&str, Align)]) -> Table {
        let columns = columns.iter().map(|(title, align)| (escape(title), *align));
        Table {
            columns: columns.collect(),
            rows: Vec::new(),
        }
    }

    /// Adds a row; cells that are missing stay empty.
    pub fn row<S: AsRef<str>>(&mut self, cells: impl IntoIterator<Item = S>) {
        let cells = cells.into_iter().map(|c| escape(c.as_ref()));
        let mut row: Vec<_> = cells.take(self.columns.len()).collect();
        row.resize(self.columns.len(), String::new());
        self.rows.push(row);
    }

    fn widths(&self) -> Vec<usize> {
        let width = |(n, (title, _)): (usize, &(String, Align))| {
            let cells = self.rows.iter().map(|row| row[n].chars().count());
            // Three characters is the least that a Markdown rule takes.
            cells.chain([title.chars().count(), 3]).max().unwrap_or(3)
        };
        self.columns.iter().enumerate().map(width).collect()
    }
}

/// A bar would end the cell.
fn escape(cell: &str) -> String {
    cell.replace('|', "\\|")
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let widths = self.widths();
        let line = |f: &mut fmt::Formatter<'_>, cells: &mut dyn Iterator<Item = &String>| {
            for ((cell, width), (_, align)) in cells.zip(&widths).zip(&self.columns) {
                match align {
                    Align::Left => write!(f, "| {cell:<width$} ")?,
                    Align::Right => write!(f, "| {cell:>width$} ")?,
                }
            }
            writeln!(f, "|")
        };
        line(f, &mut self.columns.iter().map(|(title, _)| title))?;
        for (width, (_, align)) in widths.iter().zip(&self.columns) {
            match align {
                Align::Left => write!(f, "|:{}", "-".repeat(width + 1))?,
                Align::Right => write!(f, "|{}:", "-".repeat(width + 1))?,
            }
        }
        writeln!(f, "|")?;
        self.rows
            .iter()
            .try_for_each(|row| line(f, &mut row.iter()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_three_digits() {
        for (bytes, text) in [
            (0, "0 B"),
            (999, "999 B"),
            (1000, "1.00 kB"),
            (2_099_712, "2.10 MB"),
            (15_700_000, "15.7 MB"),
            (999_499, "999 kB"),
            (999_500, "1.00 MB"),
            (1_905_000_000, "1.91 GB"),
            (u64::MAX, "18447 PB"),
        ] {
            assert_eq!(size(bytes), text);
        }
    }

    #[test]
    fn digits_shrink_as_numbers_grow() {
        for (value, text) in [
            (0.5, "0.50"),
            (9.996, "10.0"),
            (42.13, "42.1"),
            (1234.5, "1234"),
        ] {
            assert_eq!(digits(value), text);
        }
    }

    #[test]
    fn columns_align_and_bars_are_escaped() {
        let mut table = Table::new(&[("test", Align::Left), ("t/s", Align::Right)]);
        table.row(["pp512", "12.5 ± 0.25"]);
        table.row(["a|b"]);
        let expected = "\
| test  |         t/s |
|:------|------------:|
| pp512 | 12.5 ± 0.25 |
| a\\|b  |             |
";
        assert_eq!(table.to_string(), expected);
    }
}
