//! The table for people.

use std::fmt::Write;
use std::time::Duration;

use super::{Measured, Row};

const BEGIN: &str = "<!-- sim baselines: begin -->\n";
const END: &str = "<!-- sim baselines: end -->";

/// Writes the rows down as a table in Markdown.
pub(crate) fn print(rows: &[Row]) -> String {
    let mut out = String::from(
        "| nodes | way | one writer: to all, p50 · p99 | copies | control | all writing: to all, p50 · p99 | copies | control | one in 20 falls: p99 · not everywhere | idle, B/s a node | formed |\n\
         |---|---|---|---|---|---|---|---|---|---|---|\n",
    );
    for Row { way, nodes, one, all, falling, formed_after } in rows {
        let spread =
            |measured: &Measured| format!("{} · {}", millis(at(measured, 50)), millis(at(measured, 99)));
        let formed =
            formed_after.map_or_else(|| "—".to_owned(), |after| format!("{:.1} s", after.as_secs_f64()));
        let line = format!(
            "| {nodes} | {} | {} | {:.2} | {:.2} | {} | {:.2} | {:.2} | {} · {} | {:.0} | {formed} |",
            way.name(),
            spread(one),
            one.copies,
            one.control,
            spread(all),
            all.copies,
            all.control,
            millis(at(falling, 99)),
            falling.incomplete,
            one.idle,
        );
        writeln!(out, "{line}").expect("a string takes every line");
    }
    out
}

/// Puts a table between the marks of a document; nothing if they are not there.
pub(crate) fn insert(document: &str, table: &str) -> Option<String> {
    let (before, rest) = document.split_once(BEGIN)?;
    let (_, after) = rest.split_once(END)?;
    Some(format!("{before}{BEGIN}\n{table}\n{END}{after}"))
}

fn at(measured: &Measured, percent: usize) -> Option<Duration> {
    let last = measured.to_all.len().checked_sub(1)?;
    measured.to_all.get(last * percent / 100).copied()
}

fn millis(duration: Option<Duration>) -> String {
    duration.map_or_else(|| "never".to_owned(), |duration| format!("{} ms", duration.as_millis()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_replaces_what_is_between_the_marks() {
        let document = format!("a\n{BEGIN}old\n{END}\nb\n");
        let new = insert(&document, "new").unwrap();
        assert_eq!(new, format!("a\n{BEGIN}\nnew\n{END}\nb\n"));
        assert_eq!(insert(&new, "new"), Some(new));
        assert_eq!(insert("no marks", "new"), None);
    }
}
