//! The picture in a page of its own, with what cannot be drawn beside it.

use std::fmt::Write as _;

use super::Timeline;
use super::scale::{delay, escaped};
use super::svg::{STYLE, svg};
use crate::token::quoted;

const PAGE_STYLE: &str = "html{color-scheme:light dark}body{margin:0;background:var(--bg);color:var(--ink);\
font:14px/1.5 system-ui,-apple-system,'Segoe UI',Roboto,'DejaVu Sans',sans-serif}main{max-width:1180px;margin:0 auto;padding:8px 0 40px}\
svg{max-width:100%;height:auto;display:block}section{padding:0 24px}h2{font-size:15px;margin:20px 0 6px}\
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}\
th{text-align:left;color:var(--muted);font-weight:500}td,th{padding:3px 12px 3px 0;border-bottom:1px solid var(--grid);vertical-align:top}\
code{background:var(--track);padding:2px 6px;border-radius:4px;font-size:13px}.bad{color:var(--bad)}";

/// One page, which needs nothing from anywhere.
pub(crate) fn html(timeline: &Timeline) -> String {
    let header = &timeline.header;
    let title = escaped(&format!("{} {}", header.scenario, header.seed));
    format!(
        "<!doctype html>\n<html lang=\"en\" class=\"sim\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\n<title>{title}</title>\n\
         <style>{STYLE}{PAGE_STYLE}</style>\n</head>\n<body>\n<main>\n{}<section>\n{}{}{}</section>\n</main>\n</body>\n</html>\n",
        svg(timeline),
        violations(timeline),
        faults(timeline),
        repeat(timeline),
    )
}

fn violations(timeline: &Timeline) -> String {
    if timeline.violations.is_empty() {
        return String::new();
    }
    let mut text = "<h2 class=\"bad\">What did not hold</h2>\n<table><tr><th>when</th><th>where</th><th>what</th></tr>\n".to_owned();
    for (at, node, what) in &timeline.violations {
        let node = node.map_or_else(|| "all nodes".to_owned(), |node| format!("n{node}"));
        // A string takes everything.
        writeln!(text, "<tr><td>{}</td><td>{node}</td><td>{}</td></tr>", delay(*at), escaped(what)).ok();
    }
    text + "</table>\n"
}

fn faults(timeline: &Timeline) -> String {
    if timeline.header.faults.is_empty() {
        return String::new();
    }
    let head = "<tr><th>fault</th><th>from</th><th>to</th><th>nodes</th></tr>";
    let mut text = format!("<h2>What went wrong</h2>\n<table>{head}\n");
    for fault in &timeline.header.faults {
        let until = fault.until_ns.map_or_else(|| "at once".to_owned(), delay);
        let mut sides: Vec<usize> = fault.sides.iter().flatten().copied().collect();
        sides.sort_unstable();
        sides.dedup();
        let of = |side: usize| {
            let nodes = fault.sides.iter().enumerate().filter(|(_, of)| **of == Some(side));
            nodes.map(|(node, _)| format!("n{node}")).collect::<Vec<_>>().join(" ")
        };
        let nodes: Vec<String> = sides.into_iter().map(of).collect();
        let (kind, nodes) = (escaped(&fault.kind), nodes.join(" | "));
        writeln!(
            text,
            "<tr><td>{kind}</td><td>{}</td><td>{until}</td><td>{nodes}</td></tr>",
            delay(fault.at_ns)
        )
        .ok();
    }
    text + "</table>\n"
}

fn repeat(timeline: &Timeline) -> String {
    let header = &timeline.header;
    let command = escaped(&format!("cargo run --bin sim -- replay {}", quoted(&header.token)));
    format!("<h2>The same run again</h2>\n<p><code>{command}</code></p>\n")
}
