//! A copy of the state, read line by line.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use super::super::failure::{Exit, Failure};
use crate::node::api::{STATE_FORMAT, StateHead, StateLine};

/// The longest line, in bytes: an attribute with all the siblings it can have.
const MAX_LINE: u64 = 16 * 1024 * 1024;
/// How many faults are told.
const MAX_FAULTS: usize = 10;

/// A copy of the state.
pub(super) struct Copy {
    /// What it is called in messages.
    name: String,
    file: File,
}

/// What was found in a copy: nothing wrong.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Survey {
    /// The lines between the first and the last one.
    pub(super) lines: u64,
    pub(super) bytes: u64,
}

impl Copy {
    /// Opens one. What comes on standard input is put aside first, for it is read twice.
    pub(super) fn open(path: &Path) -> Result<Self, Failure> {
        let failed = |error: io::Error| {
            let exit =
                if error.kind() == io::ErrorKind::NotFound { Exit::NotFound } else { Exit::Unexpected };
            Failure::new(exit, format!("cannot read {}: {error}", path.display()))
        };
        if path != Path::new("-") {
            let file = File::open(path).map_err(failed)?;
            if file.metadata().map_err(failed)?.is_file() {
                return Ok(Self { name: path.display().to_string(), file });
            }
            return Ok(Self { name: path.display().to_string(), file: set_aside(file).map_err(failed)? });
        }
        Ok(Self { name: "standard input".into(), file: set_aside(io::stdin().lock()).map_err(failed)? })
    }

    /// Looks at every line. What is wrong with them is told all at once.
    pub(super) fn survey(&mut self) -> Result<Survey, Failure> {
        let (mut survey, mut faults, mut ending) = (Survey::default(), Vec::new(), Ending::Open);
        let mut more = 0;
        let (name, mut lines) = (self.name.clone(), self.lines()?);
        while let Some(Line { number, length, says }) = lines.next()? {
            survey.bytes += length;
            let judged = says.and_then(|line| judge(line, &mut ending, &mut survey));
            if let Err(fault) = judged {
                if faults.len() < MAX_FAULTS {
                    faults.push(format!("{name}:{number}: {fault}"));
                } else {
                    more += 1;
                }
            }
        }
        if matches!(ending, Ending::Awaited) && faults.is_empty() {
            faults.push(format!(
                "{name}: it breaks off: the last line, which says that it is whole, is missing"
            ));
        }
        if faults.is_empty() {
            return Ok(survey);
        }
        if more > 0 {
            faults.push(format!("and {more} more"));
        }
        Err(Failure::usage(faults.join("; ")).hint("nothing was written; put it right and try again"))
    }

    /// All lines from the first, with their numbers and lengths.
    pub(super) fn lines(&mut self) -> io::Result<Lines<'_>> {
        self.file.seek(SeekFrom::Start(0))?;
        Ok(Lines { reader: BufReader::new(&self.file), number: 0 })
    }

    /// What it is called in messages.
    pub(super) fn name(&self) -> &str {
        &self.name
    }
}

/// How a copy should end.
enum Ending {
    /// Somebody wrote it by hand: anyhow.
    Open,
    /// With the line that says so.
    Awaited,
    /// It has ended.
    Seen,
}

fn judge(line: StateLine, ending: &mut Ending, survey: &mut Survey) -> Result<(), String> {
    match (line, &*ending) {
        (_, Ending::Seen) => Err("there is something behind the last line: is it two copies?".into()),
        (StateLine::State(StateHead { format, .. }), Ending::Open) if survey.lines == 0 => {
            *ending = Ending::Awaited;
            if format > STATE_FORMAT {
                return Err(format!(
                    "format {format} is of a later version of snomesh; this one reads {STATE_FORMAT}"
                ));
            }
            Ok(())
        }
        (StateLine::End(end), Ending::Awaited) => {
            *ending = Ending::Seen;
            let found = survey.lines;
            if end.lines != found {
                return Err(format!(
                    "{} lines should be before this, not {found}: the copy is not whole",
                    end.lines
                ));
            }
            Ok(())
        }
        (line, Ending::Open | Ending::Awaited) => {
            // Counted whether it is right or not: what is wrong with it is told already.
            survey.lines += 1;
            line.to_piece().map(drop).map_err(|error| error.to_string())
        }
    }
}

/// Lines of a copy.
pub(super) struct Lines<'a> {
    reader: BufReader<&'a File>,
    number: u64,
}

/// A line of a copy.
pub(super) struct Line {
    /// Counted from 1.
    pub(super) number: u64,
    /// In bytes.
    pub(super) length: u64,
    /// What it says, or what is wrong with it.
    pub(super) says: Result<StateLine, String>,
}

impl Lines<'_> {
    /// The next line that is not empty.
    pub(super) fn next(&mut self) -> io::Result<Option<Line>> {
        loop {
            let mut text = Vec::new();
            self.number += 1;
            let read = self.reader.by_ref().take(MAX_LINE + 1).read_until(b'\n', &mut text)? as u64;
            if read == 0 {
                return Ok(None);
            }
            if read > MAX_LINE {
                self.reader.skip_until(b'\n')?;
                let fault = format!("a line has at most {MAX_LINE} bytes");
                return Ok(Some(Line { number: self.number, length: read, says: Err(fault) }));
            }
            if text.trim_ascii().is_empty() {
                continue;
            }
            let says = serde_json::from_slice(&text).map_err(|error| {
                // A line has no lines of its own: only the column says something.
                let what = error.to_string();
                let what = what.split(" at line ").next().unwrap_or(&what);
                format!("{what} (column {})", error.column())
            });
            return Ok(Some(Line { number: self.number, length: read, says }));
        }
    }
}

/// Puts a stream into a file without a name, which goes with whoever has it open.
fn set_aside(mut stream: impl Read) -> io::Result<File> {
    let directory = std::env::temp_dir();
    let mut file = None;
    for attempt in 0..16 {
        let path = directory.join(format!(".snomesh-{}-{attempt}", std::process::id()));
        match File::options().read(true).write(true).create_new(true).mode(0o600).open(&path) {
            Ok(made) => {
                std::fs::remove_file(&path)?;
                file = Some(made);
                break;
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
    let mut file = file.ok_or(io::ErrorKind::AlreadyExists)?;
    io::copy(&mut stream, &mut file)?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = r#"{"state":{"format":1,"at":0}}"#;
    const ONE: &str = r#"{"attribute":{"key":"mesh/a","value":{"text":"1"}}}"#;

    fn survey(text: &str) -> Result<Survey, String> {
        let file = set_aside(text.as_bytes()).unwrap();
        Copy { name: "copy".into(), file }.survey().map_err(|failure| failure.what)
    }

    #[test]
    fn a_copy_is_whole_or_says_where_it_is_not() {
        let end = |lines: u64| format!(r#"{{"end":{{"lines":{lines}}}}}"#);
        let whole = format!("{HEAD}\n{ONE}\n\n{ONE}\n{}\n", end(2));
        assert_eq!(survey(&whole).unwrap(), Survey { lines: 2, bytes: whole.len() as u64 - 1 });
        assert_eq!(survey(ONE).unwrap().lines, 1);
        assert_eq!(survey("").unwrap().lines, 0);
        let cases = [
            (format!("{HEAD}\n{ONE}\n"), "copy: it breaks off"),
            (format!("{HEAD}\n{ONE}\n{}\n", end(2)), "copy:3: 2 lines should be before this, not 1"),
            (format!("{HEAD}\n{}\n{ONE}\n", end(0)), "copy:3: there is something behind the last line"),
            (format!("{ONE}\n{HEAD}\n"), "copy:2: only the first line"),
            (HEAD.replace('1', "2"), "copy:1: format 2 is of a later version"),
            (format!("{ONE}\n{{\"attribute\":1}}\n"), "copy:2: invalid type"),
            (format!("{ONE}\nnonsense\n"), "copy:2: expected value (column 1)"),
            ("\u{0}".repeat(100), "copy:1: expected value (column 1)"),
        ];
        for (text, begins) in cases {
            let fault = survey(&text).unwrap_err();
            assert!(fault.starts_with(begins), "{text}: {fault}");
        }
    }

    #[test]
    fn many_faults_are_told_as_some_and_a_number() {
        let fault = survey(&"x\n".repeat(15)).unwrap_err();
        assert_eq!(fault.matches("copy:").count(), 10);
        assert!(fault.ends_with("and 5 more"), "{fault}");
    }

    #[test]
    fn an_endless_line_is_read_to_its_end_and_not_kept() {
        let long = usize::try_from(MAX_LINE).unwrap() * 2;
        let fault = survey(&format!("{}\n{ONE}\n", "x".repeat(long))).unwrap_err();
        assert!(fault.starts_with("copy:1: a line has at most") && !fault.contains("copy:2"), "{fault}");
    }
}
