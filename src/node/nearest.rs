//! Did you mean …?

/// The candidate that a mistyped word most likely stands for; nothing if none is near.
pub(super) fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let limit = match word.chars().count() {
        0..=2 => 1,
        3..=5 => 2,
        _ => 3,
    };
    let near = candidates.into_iter().map(|candidate| (distance(word, candidate), candidate));
    let near = near.filter(|(distance, candidate)| {
        *distance <= limit
            || candidate.starts_with(word)
            || (candidate.len() > 2 && word.starts_with(candidate))
    });
    near.min().map(|(_, candidate)| candidate)
}

/// How many letters must be put in, left out, exchanged, or swapped with their neighbours (optimal string alignment).
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows = vec![vec![0; b.len() + 1]; a.len() + 1];
    for i in 0..=a.len() {
        for j in 0..=b.len() {
            rows[i][j] = if i == 0 || j == 0 {
                i + j
            } else {
                let exchanged = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
                let mut least = exchanged.min(rows[i - 1][j] + 1).min(rows[i][j - 1] + 1);
                if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                    least = least.min(rows[i - 2][j - 2] + 1);
                }
                least
            };
        }
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_of_the_finger_are_few_letters_away() {
        assert_eq!(distance("listen", "lsiten"), 1);
        assert_eq!(distance("listen", "lisen"), 1);
        assert_eq!(distance("", "abc"), 3);
        let known = ["listen", "advertise", "max_streams"];
        assert_eq!(nearest("lsiten", known), Some("listen"));
        assert_eq!(nearest("max_stream", known), Some("max_streams"));
        assert_eq!(nearest("adv", known), Some("advertise"));
        assert_eq!(nearest("colour", known), None);
    }
}
