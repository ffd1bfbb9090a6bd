//! What is printed: tables for people, JSON for programs, check marks, and nothing that could drive a terminal.

use std::fmt::Write as _;
use std::io::{self, Write};

use anstream::AutoStream;
use anstyle::{AnsiColor, Style};
use serde::Serialize;

use crate::node::api::API_VERSION;

/// How lists and documents are printed.
// No doc comments on the values: clap would turn the help of every command into its long form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Format {
    // Aligned columns for people; may change.
    Table,
    // The same with more columns and nothing cut off.
    Wide,
    // One document, as the admin API gives it; stable.
    Json,
    // One line of JSON for each item.
    Jsonl,
    // The names alone, a line each.
    Name,
}

impl Format {
    /// Whether a person reads it, who wants to be told what to do next.
    pub(super) fn is_for_people(self) -> bool {
        matches!(self, Self::Table | Self::Wide)
    }
}

/// When to use colours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Color {
    // On a terminal, unless the environment says otherwise (`NO_COLOR`, `CLICOLOR_FORCE`, `TERM`).
    Auto,
    Always,
    Never,
}

impl Color {
    pub(super) fn choice(self) -> anstream::ColorChoice {
        match self {
            Self::Auto => anstream::ColorChoice::Auto,
            Self::Always => anstream::ColorChoice::Always,
            Self::Never => anstream::ColorChoice::Never,
        }
    }
}

const GOOD: Style = AnsiColor::Green.on_default().bold();
const DOUBT: Style = AnsiColor::Yellow.on_default().bold();
const BAD: Style = AnsiColor::Red.on_default().bold();
const FAINT: Style = Style::new().dimmed();
const HEAD: Style = Style::new().bold();

/// Standard output.
pub(super) struct Screen {
    out: AutoStream<io::Stdout>,
    format: Format,
    quiet: bool,
    snomesh: String,
}

impl Screen {
    pub(super) fn new(format: Format, color: Color, quiet: bool) -> Self {
        let out = AutoStream::new(io::stdout(), color.choice());
        Self { out, format, quiet, snomesh: "snomesh".to_owned() }
    }

    /// Remembers how this program is to be called again, so that it finds the same node.
    pub(super) fn called(self, snomesh: String) -> Self {
        Self { snomesh, ..self }
    }

    /// What the commands begin with that are told as the next ones.
    pub(super) fn snomesh(&self) -> &str {
        &self.snomesh
    }

    pub(super) fn format(&self) -> Format {
        self.format
    }

    /// Whether nothing but the answer is wanted.
    pub(super) fn is_quiet(&self) -> bool {
        self.quiet
    }

    /// Prints a line.
    pub(super) fn line(&mut self, text: impl AsRef<str>) -> io::Result<()> {
        writeln!(self.out, "{}", text.as_ref())?;
        self.out.flush()
    }

    /// Prints bytes as they are.
    pub(super) fn raw(&mut self, bytes: &[u8]) -> io::Result<()> {
        // Past the stream that strips colours: bytes are bytes.
        let mut out = io::stdout().lock();
        out.write_all(bytes)?;
        out.flush()
    }

    /// Prints a document as the API gave it.
    pub(super) fn json(&mut self, value: &impl Serialize) -> io::Result<()> {
        let text = match self.format {
            Format::Jsonl => serde_json::to_string(value),
            Format::Table | Format::Wide | Format::Json | Format::Name => serde_json::to_string_pretty(value),
        };
        self.line(text.expect("texts and numbers are JSON"))
    }

    /// Prints a document that does not say by itself which version of the API it is of.
    pub(super) fn document(&mut self, body: &impl Serialize) -> io::Result<()> {
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct Document<'a, T> {
            api_version: &'static str,
            #[serde(flatten)]
            body: &'a T,
        }
        self.json(&Document { api_version: API_VERSION, body })
    }

    /// Says that something was done: to people, unless they want to hear nothing, in words, and to programs as a document.
    pub(super) fn outcome(&mut self, text: impl AsRef<str>, document: &impl Serialize) -> io::Result<()> {
        match self.format {
            Format::Json | Format::Jsonl => self.document(document),
            Format::Table | Format::Wide | Format::Name => self.done(text),
        }
    }

    /// Says that something was done. Only people want to hear it, and not the quiet ones.
    pub(super) fn done(&mut self, text: impl AsRef<str>) -> io::Result<()> {
        if self.is_talkative() {
            self.line(format!("{GOOD}✓{GOOD:#} {}", text.as_ref()))?;
        }
        Ok(())
    }

    /// Says what could be done next.
    pub(super) fn next(&mut self, text: impl AsRef<str>) -> io::Result<()> {
        if self.is_talkative() {
            self.line(format!("  {FAINT}{}{FAINT:#}", text.as_ref()))?;
        }
        Ok(())
    }

    /// Says that something holds, whoever reads it.
    pub(super) fn passed(&mut self, text: impl AsRef<str>) -> io::Result<()> {
        self.line(format!("{GOOD}✓{GOOD:#} {}", text.as_ref()))
    }

    /// Says that something could be better.
    pub(super) fn doubted(&mut self, text: impl AsRef<str>) -> io::Result<()> {
        self.line(format!("{DOUBT}!{DOUBT:#} {}", text.as_ref()))
    }

    /// Begins a new page, where a person reads it on a terminal.
    pub(super) fn clear(&mut self) -> io::Result<()> {
        if self.format.is_for_people() && io::IsTerminal::is_terminal(&io::stdout()) {
            write!(self.out, "\x1b[2J\x1b[H")?;
        }
        Ok(())
    }

    /// Says that something did not hold.
    pub(super) fn failed(&mut self, text: impl AsRef<str>) -> io::Result<()> {
        self.line(format!("{BAD}✗{BAD:#} {}", text.as_ref()))
    }

    /// Says something as it is, to people who want to hear it.
    pub(super) fn say(&mut self, text: impl AsRef<str>) -> io::Result<()> {
        if self.is_talkative() { self.line(text) } else { Ok(()) }
    }

    /// Prints a list in the format that was asked for: the whole document, its items, or rows of a table.
    pub(super) fn list<T: Serialize>(
        &mut self,
        document: &impl Serialize,
        items: &[T],
        name: impl Fn(&T) -> &str,
        table: &Table,
    ) -> io::Result<()> {
        match self.format {
            Format::Json => self.json(document),
            Format::Jsonl => items.iter().try_for_each(|item| self.json(item)),
            Format::Name => items.iter().try_for_each(|item| self.line(escape(name(item)))),
            Format::Table | Format::Wide => self.table(table),
        }
    }

    /// Prints a table.
    pub(super) fn table(&mut self, table: &Table) -> io::Result<()> {
        table.lines().iter().try_for_each(|line| self.line(line))
    }

    fn is_talkative(&self) -> bool {
        self.format.is_for_people() && !self.quiet
    }
}

/// Complains on standard error.
pub(super) fn complain(color: Color, what: &str, hint: Option<&str>) {
    let mut err = AutoStream::new(io::stderr(), color.choice());
    // Where nobody listens there is nobody to tell.
    let _unheard = writeln!(err, "{BAD}error:{BAD:#} {}", escape(what));
    if let Some(hint) = hint {
        let _unheard = writeln!(err, "{HEAD}hint:{HEAD:#} {}", escape(hint));
    }
}

/// Remarks something on standard error.
pub(super) fn remark(color: Color, what: &str) {
    let mut err = AutoStream::new(io::stderr(), color.choice());
    let _unheard = writeln!(err, "{HEAD}note:{HEAD:#} {}", escape(what));
}

/// Makes a text harmless for a terminal, and for lines: control characters become escapes.
pub(super) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() {
            escaped.extend(c.escape_default());
        } else {
            escaped.push(c);
        }
    }
    escaped
}

/// The beginning of a text, made harmless, with an ellipsis if something is missing.
pub(super) fn excerpt(text: &str, max: usize) -> String {
    let escaped = escape(text);
    if escaped.chars().count() <= max {
        return escaped;
    }
    let mut cut: String = escaped.chars().take(max.saturating_sub(1)).collect();
    cut.push('…');
    cut
}

/// Columns, each as wide as its widest cell.
#[derive(Debug)]
pub(super) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(super) fn new(head: &[&str]) -> Self {
        Self { rows: vec![head.iter().map(|head| (*head).to_owned()).collect()] }
    }

    pub(super) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().map(|cell| escape(&cell)).collect());
    }

    fn lines(&self) -> Vec<String> {
        let columns = self.rows[0].len();
        let width =
            |column: usize| self.rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..columns).map(width).collect();
        let lines = self.rows.iter().enumerate().map(|(number, row)| {
            let mut line = String::new();
            for (cell, width) in row.iter().zip(&widths) {
                write!(line, "{cell:width$}  ").expect("a String takes everything");
            }
            let line = line.trim_end();
            if number == 0 { format!("{HEAD}{line}{HEAD:#}") } else { line.to_owned() }
        });
        lines.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_wrote_cannot_drive_the_terminal() {
        assert_eq!(escape("a\x1b[31mb\nc\u{9b}d"), r"a\u{1b}[31mb\nc\u{9b}d");
        assert_eq!(escape("grün ✓"), "grün ✓");
    }

    #[test]
    fn an_excerpt_says_that_it_is_one() {
        assert_eq!(excerpt("abcdef", 6), "abcdef");
        assert_eq!(excerpt("abcdefg", 6), "abcde…");
    }

    #[test]
    fn columns_are_aligned() {
        let mut table = Table::new(&["NAME", "ID"]);
        table.row(["a-long-name".into(), "1".into()]);
        table.row(["ä".into(), "22".into()]);
        let lines: Vec<_> =
            table.lines().iter().map(|line| anstream::adapter::strip_str(line).to_string()).collect();
        assert_eq!(lines, ["NAME         ID", "a-long-name  1", "ä            22"]);
    }
}
