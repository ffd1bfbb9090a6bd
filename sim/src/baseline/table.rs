//! The table for people.

use std::fmt::Write;
use std::time::Duration;

use super::{Budgets, Measured, Row};

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
pub(crate) fn insert(document: &str, command: &str, table: &str) -> Option<String> {
    let (begin, end) = (format!("<!-- sim {command}: begin -->\n"), format!("<!-- sim {command}: end -->"));
    let (before, rest) = document.split_once(&begin)?;
    let (_, after) = rest.split_once(&end)?;
    Some(format!("{before}{begin}\n{table}\n{end}{after}"))
}

/// Writes what meshes keep to down as a table in Markdown.
pub(crate) fn print_budgets(measured: &[Budgets]) -> String {
    let mut out = String::from(
        "| nodes | formed | keys each, all at once: everywhere after · bytes ÷ least | idle before · 5 s after, B/s a node | a node falls: suspect · down for all | halves heal: one mesh · what was written · same state |\n\
         |---|---|---|---|---|---|\n",
    );
    for one in measured {
        let line = format!(
            "| {} | {} | {}: {} · {:.2} | {:.0} · {:.0} | {} · {} | {} · {} · {} |",
            one.nodes,
            seconds(one.formed_after),
            one.bulk_each,
            seconds(one.loaded_after),
            one.load_bytes,
            one.idle_before,
            one.idle_after,
            seconds(one.suspected_after),
            seconds(one.down_after),
            seconds(one.healed.one_after),
            seconds(one.healed.known_after),
            seconds(one.healed.agreed_after),
        );
        writeln!(out, "{line}").expect("a string takes every line");
    }
    out
}

fn seconds(duration: Option<Duration>) -> String {
    duration.map_or_else(|| "never".to_owned(), |duration| format!("{:.2} s", duration.as_secs_f64()))
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
        let marked = |text: &str| format!("a\n<!-- sim x: begin -->\n{text}<!-- sim x: end -->\nb\n");
        let new = insert(&marked("old\n"), "x", "new").unwrap();
        assert_eq!(new, marked("\nnew\n"));
        assert_eq!(insert(&new, "x", "new"), Some(new.clone()));
        assert_eq!(insert(&new, "y", "new"), None);
        assert_eq!(insert("no marks", "x", "new"), None);
    }
}
