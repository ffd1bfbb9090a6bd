//! Commands as hints tell them: what is copied into a shell does what it says.

use std::ffi::OsStr;

/// One word, in quotes if a shell would not take it as it stands.
pub(super) fn word(text: &(impl AsRef<OsStr> + ?Sized)) -> String {
    let text = text.as_ref().to_string_lossy();
    let stands = |byte: u8| byte.is_ascii_alphanumeric() || b"-_./:@%+,=".contains(&byte);
    if !text.is_empty() && text.bytes().all(stands) {
        return text.into_owned();
    }
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// This program with options of every command, each with its value.
pub(super) fn snomesh<T: AsRef<OsStr>>(options: impl IntoIterator<Item = (&'static str, T)>) -> String {
    let options = options.into_iter().map(|(name, value)| format!(" {name} {}", word(&value)));
    format!("snomesh{}", options.collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_shell_would_take_apart_is_quoted() {
        for plain in ["/tmp/mesh/a", "http://127.0.0.1:7668", "copy.jsonl", "-"] {
            assert_eq!(word(plain), plain);
        }
        assert_eq!(word("/tmp/my mesh"), "'/tmp/my mesh'");
        assert_eq!(word("it's"), r"'it'\''s'");
        assert_eq!(word(""), "''");
        assert_eq!(snomesh([("--data-dir", "a b"), ("--agent", "x")]), "snomesh --data-dir 'a b' --agent x");
        assert_eq!(snomesh::<&str>([]), "snomesh");
    }
}
