//! The tour.

use crate::program::{snomesh, snomesh_with};

#[test]
fn the_tour_holds_and_leaves_nothing_behind() {
    let directory = tempfile::tempdir().unwrap();
    let run = snomesh_with("TMPDIR", directory.path(), &["demo", "--once"]);
    assert_eq!(run.code, Some(0), "{run:?}");
    let text = run.text();
    assert_eq!(text.lines().filter(|line| line.starts_with('✓')).count(), 10, "{text}");
    assert!(text.contains("answer: hello from node c"), "{text}");
    assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
}

#[test]
fn a_mesh_of_two_is_no_tour() {
    assert_eq!(snomesh(&["demo", "--once", "--nodes", "2"]).code, Some(2));
}
