use super::*;
use crate::random::Seed;
use crate::trace::HeaderFault;

const SECOND: u64 = 1_000_000_000;

fn header() -> Header {
    let fault = |kind: &str, at, until_ns: Option<u64>, sides: &[Option<usize>]| HeaderFault {
        kind: kind.to_owned(),
        at_ns: at * SECOND,
        until_ns: until_ns.map(|until| until * SECOND),
        sides: sides.to_vec(),
    };
    let (a, b, no) = (Some(0), Some(1), None);
    Header {
        schema: Header::SCHEMA,
        scenario: "drawn <by hand>".to_owned(),
        about: "one of everything & more".to_owned(),
        seed: Seed(47),
        token: "by-hand@0x2f+nodes=4".to_owned(),
        nodes: 4,
        heal_ns: 20 * SECOND,
        deadline_ns: 26 * SECOND,
        end_ns: 28 * SECOND,
        faults: vec![
            fault("partition", 3, Some(9), &[a, a, b, b]),
            fault("one-way", 6, Some(12), &[no, a, no, no]),
            fault("crash", 11, None, &[no, no, no, a]),
            fault("freeze", 13, Some(15), &[no, no, a, no]),
            fault("weather", 14, Some(18), &[a, a, no, no]),
            fault("clock-jump", 16, None, &[a, no, no, no]),
        ],
    }
}

fn line(at_ms: u64, node: Option<usize>, kind: Kind, (a, b): (u64, u64), what: &str) -> Line {
    Line {
        seq: 0,
        t_ns: at_ms * 1_000_000,
        node,
        kind,
        a,
        b,
        len: 0,
        hash: String::new(),
        what: what.to_owned(),
    }
}

/// A run in which everything that the picture knows happens.
fn lines() -> Vec<Line> {
    let mut lines: Vec<Line> = (0..4).map(|node| line(0, Some(node), Kind::Start, (1, 0), "")).collect();
    for at in 0..280 {
        let distinct = if (30..90).contains(&at) {
            3
        } else if (90..120).contains(&at) {
            2
        } else {
            1
        };
        lines.push(line(at * 100, None, Kind::Digests, (distinct, 4), ""));
        let kind = ["delta", "context", "heartbeat"][usize::try_from(at % 3).unwrap()];
        lines.push(line(at * 100, Some(0), Kind::Send, (1, 20 + at % 7 * 40), kind));
        let seen = line(at * 100, Some(1), Kind::Seen, ((at + 1) * (at + 1) * 40_000, 0), "");
        lines.extend(Some(seen).filter(|_| at < 200));
    }
    lines.extend([
        line(4_000, Some(0), Kind::Event, (0, 0), "cccc Suspect"),
        line(6_000, Some(0), Kind::Event, (0, 0), "cccc Down"),
        line(9_500, Some(0), Kind::Event, (0, 0), "cccc Alive"),
        line(10_000, Some(1), Kind::Lagged, (0, 9), ""),
        line(10_050, Some(1), Kind::Lagged, (0, 9), ""),
        line(11_000, Some(3), Kind::Crash, (0, 0), ""),
        line(13_000, Some(3), Kind::Start, (2, 0), ""),
        line(13_500, Some(3), Kind::Deliver, (0, 900), "snapshot"),
        line(19_000, Some(2), Kind::Left, (1, 0), ""),
        line(20_300, None, Kind::Agreed, (0, 0), ""),
        line(28_000, None, Kind::Over, (0, 0), ""),
    ]);
    lines.sort_by_key(|line| line.t_ns);
    lines
}

fn timeline(lines: &[Line]) -> Timeline {
    let mut timeline = Timeline::new(header());
    lines.iter().for_each(|line| timeline.take(line));
    timeline
}

/// FEATURES P11. The picture is the same for the same trace, to the byte; `UPDATE_GOLDEN=1` writes it anew.
#[test]
fn the_picture_of_a_known_trace_is_the_one_that_was_looked_at() {
    let found = svg(&timeline(&lines()));
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/timeline.svg");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, &found).unwrap();
    }
    let golden = std::fs::read_to_string(&path).unwrap();
    assert!(found == golden, "the picture has changed; look at it and run the test with UPDATE_GOLDEN=1");
}

#[test]
fn a_trace_that_was_written_and_read_is_the_same_picture() {
    let lines = lines();
    let mut text = serde_json::to_string(&header()).unwrap();
    for line in &lines {
        text.push('\n');
        text.push_str(&serde_json::to_string(line).unwrap());
    }
    let read = Timeline::read("x.jsonl", text.as_bytes()).unwrap();
    assert_eq!(html(&read), html(&timeline(&lines)));
}

#[test]
fn lanes_verdicts_marks_and_delays_are_those_of_the_trace() {
    let timeline = timeline(&lines());
    assert_eq!(timeline.lanes[3].ran, [(0, Some(11 * SECOND)), (13 * SECOND, None)]);
    assert_eq!(timeline.lanes[1].marks, [Mark { at: 10 * SECOND, kind: MarkKind::Lagged, count: 2 }]);
    let at = |second: usize| timeline.verdicts[second * SLICES / 28];
    assert_eq!(
        (at(5), at(8), at(12)),
        (Verdicts { suspect: 1, down: 0 }, Verdicts { suspect: 0, down: 1 }, Verdicts::default())
    );
    let half = timeline.delay_at(500).unwrap();
    assert!((100 * 100 * 40_000..100 * 100 * 40_000 * 3 / 2).contains(&half), "{half}");
    assert_eq!(timeline.slowest_ns, 200 * 200 * 40_000);
}

#[test]
fn what_did_not_hold_stands_on_the_page_and_markup_in_it_is_harmless() {
    let mut lines = lines();
    lines.push(line(21_000, Some(1), Kind::Violation, (0, 0), "<script>alert(1)</script>"));
    let page = html(&timeline(&lines));
    assert!(page.contains("What did not hold") && page.contains("&lt;script&gt;"));
    assert!(!page.contains("<script") && page.contains("drawn &lt;by hand&gt;"));
    assert!(page.contains("replay by-hand@0x2f+nodes=4</code>"));
    for elsewhere in ["src=", "href=", "url(http", "@import"] {
        assert!(!page.contains(elsewhere), "it needs something from elsewhere: {elsewhere}");
    }
}

#[test]
fn what_is_no_trace_is_told_with_its_place() {
    let error = |text: &str| Timeline::read("x.jsonl", text.as_bytes()).unwrap_err().to_string();
    assert!(error("").starts_with("x.jsonl:1: this is no trace"));
    let header = serde_json::to_string(&header()).unwrap();
    assert!(error(&format!("{header}\n{{\"seq\":1}}")).starts_with("x.jsonl:2: this is no record"));
    assert!(
        error(&header.replace("\"schema\":1", "\"schema\":9")).contains("has schema 9, this program reads 1")
    );
}

#[test]
fn classes_of_delay_hold_what_they_say() {
    assert!((0..CLASSES - 1).all(|class| class_end(class) < class_end(class + 1)));
    assert_eq!(
        (class_of(0), class_of(100_000), class_of(100_001), class_of(u64::MAX)),
        (0, 0, 1, CLASSES - 1)
    );
}
