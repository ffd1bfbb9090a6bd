//! `snomesh state import`.

use std::collections::BTreeSet;
use std::path::Path;

use super::super::Global;
use super::super::failure::{Exit, Failure};
use super::super::screen::{Format, Screen};
use super::super::shell::word;
use super::copy::{Copy, Line};
use super::{Import, progress};
use crate::node::api::{API_VERSION, ImportState, ImportedState, StateLine};
use crate::node::offline::Woken;
use crate::node::{Client, ClientError};

/// The most lines, and about the most bytes, of one request.
const MAX_LINES: usize = 500;
const MAX_BYTES: u64 = 512 * 1024;

/// Lines that wait to be sent.
#[derive(Default)]
struct Batch {
    lines: Vec<StateLine>,
    /// Where they stand in the copy.
    numbers: Vec<u64>,
    bytes: u64,
    subjects: BTreeSet<String>,
}

impl Batch {
    fn is_full(&self) -> bool {
        self.lines.len() >= MAX_LINES || self.bytes >= MAX_BYTES
    }

    /// What a line is about, which two lines of one request may not be.
    fn subject(line: &StateLine) -> String {
        match line {
            StateLine::Attribute(kept) => format!("attr {}", kept.key),
            StateLine::Counter(kept) => format!("sum {}", kept.key),
            other => serde_json::to_string(other).expect("texts and numbers are JSON"),
        }
    }

    fn push(&mut self, number: u64, bytes: u64, subject: String, line: StateLine) {
        self.lines.push(line);
        self.numbers.push(number);
        self.bytes += bytes;
        self.subjects.insert(subject);
    }
}

/// Who takes the lines.
enum Taker<'a> {
    /// A node that runs.
    Node(&'a Client),
    /// The directory of one that does not.
    Directory(&'a Woken),
}

impl Taker<'_> {
    async fn take(&self, lines: ImportState) -> Result<ImportedState, Failure> {
        Ok(match self {
            Self::Node(client) => client.post_json("/v1/state", &lines).await?,
            Self::Directory(woken) => woken.import(lines).await.map_err(ClientError::Refused)?,
        })
    }
}

/// Asks the node.
pub(super) async fn online(client: &Client, screen: &mut Screen, import: &Import) -> Result<(), Failure> {
    write(&Taker::Node(client), screen, import).await
}

/// Writes to a node's directory.
pub(super) fn offline(global: &Global, import: &Import, screen: &mut Screen) -> Result<Exit, Failure> {
    let directory = global.data_dir()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    runtime.block_on(async {
        let woken = Woken::begin(&directory, import.dry_run).await;
        let woken = woken.map_err(|error| Failure::from(error).or_hint("leave out --offline"))?;
        let Some(woken) = woken else {
            let what = format!("{} is not the directory of a node", directory.display());
            return Err(Failure::new(Exit::NotFound, what)
                .hint("name it: --data-dir DIR; snomesh up or snomesh join make one"));
        };
        let written = write(&Taker::Directory(&woken), screen, import).await;
        woken.end().await;
        written.map(|()| Exit::Success)
    })
}

async fn write(taker: &Taker<'_>, screen: &mut Screen, import: &Import) -> Result<(), Failure> {
    let mut copy = Copy::open(Path::new(&import.file))?;
    let survey = copy.survey()?;
    let bar = progress(screen, Some(survey.bytes));
    let mut total = ImportedState { api_version: API_VERSION.into(), ..ImportedState::default() };
    let name = copy.name().to_owned();
    let mut lines = copy.lines()?;
    let mut batch = Batch::default();
    while let Some(Line { number, length, says }) = lines.next()? {
        let mut line = says.map_err(|fault| Failure::usage(format!("{name}:{number}: {fault}")))?;
        match &mut line {
            StateLine::State(_) | StateLine::End(_) => continue,
            StateLine::Attribute(kept) => kept.siblings.clear(),
            StateLine::Counter(_)
            | StateLine::Element(_)
            | StateLine::Revocation(_)
            | StateLine::Policy(_) => {}
        }
        let subject = Batch::subject(&line);
        if batch.is_full() || batch.bytes + length > MAX_BYTES || batch.subjects.contains(&subject) {
            send(taker, import, &mut batch, &mut total, &name).await?;
            bar.inc(batch.bytes);
            batch = Batch::default();
        }
        batch.push(number, length, subject, line);
    }
    send(taker, import, &mut batch, &mut total, &name).await?;
    bar.finish_and_clear();
    report(screen, import, &total)
}

/// Sends what waits. What the mesh refuses ends the import: the rest would fare alike.
async fn send(
    taker: &Taker<'_>,
    import: &Import,
    batch: &mut Batch,
    total: &mut ImportedState,
    name: &str,
) -> Result<(), Failure> {
    if batch.lines.is_empty() {
        return Ok(());
    }
    let (first, last) = (batch.numbers[0], batch.numbers[batch.numbers.len() - 1]);
    let lines = std::mem::take(&mut batch.lines);
    let request = ImportState { lines, dry_run: import.dry_run, keep: import.keep };
    let resume = "what was written stays; do it again when that is put right, it does no harm";
    let answer = taker.take(request).await.map_err(|mut failure| {
        failure.what = format!("{name}:{first}-{last}: {}", failure.what);
        failure.or_hint(resume)
    })?;
    total.written += answer.written;
    total.unchanged += answer.unchanged;
    total.kept += answer.kept;
    total.left_out += answer.left_out;
    if answer.refused.is_empty() {
        return Ok(());
    }
    let refused = answer.refused.iter().take(10).map(|refused| {
        let number = usize::try_from(refused.index).ok().and_then(|index| batch.numbers.get(index));
        format!("{name}:{}: {}", number.copied().unwrap_or_default(), refused.reason)
    });
    let mut what = refused.collect::<Vec<_>>().join("; ");
    if answer.refused.len() > 10 {
        what = format!("{what}; and {} more", answer.refused.len() - 10);
    }
    Err(Failure::new(Exit::Conflict, what).hint(resume))
}

fn report(screen: &mut Screen, import: &Import, total: &ImportedState) -> Result<(), Failure> {
    if matches!(screen.format(), Format::Json | Format::Jsonl) {
        return Ok(screen.json(total)?);
    }
    let mut parts = vec![
        format!("{} {}", total.written, if import.dry_run { "would be written" } else { "written" }),
        format!("{} unchanged", total.unchanged),
    ];
    if total.kept > 0 {
        parts.push(format!("{} have another value, which stays", total.kept));
    }
    if total.left_out > 0 {
        parts.push(format!("{} proofs left out, of another mesh or older than what holds", total.left_out));
    }
    screen.done(parts.join(", "))?;
    if import.dry_run {
        let options = [(import.offline, " --offline"), (import.keep, " --keep")];
        let options: String = options.iter().filter_map(|(given, option)| given.then_some(*option)).collect();
        let (snomesh, file) = (screen.snomesh(), word(&import.file));
        screen.next(format!("Do it:  {snomesh} state import{options} {file}"))?;
    }
    Ok(())
}
