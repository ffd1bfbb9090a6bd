//! Errors as people read them.

use std::error::Error;

/// An error and its causes in one line, none of them twice.
pub(crate) fn in_one_line(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    enum Layer {
        #[error("cannot dial")]
        Outer(#[source] Box<Self>),
        #[error("cannot write: {0}")]
        Told(#[source] Box<Self>),
        #[error("no route")]
        Inner,
    }

    #[test]
    fn every_cause_is_told_once() {
        assert_eq!(in_one_line(&Layer::Outer(Layer::Inner.into())), "cannot dial: no route");
        let told = Layer::Outer(Layer::Told(Layer::Inner.into()).into());
        assert_eq!(in_one_line(&told), "cannot dial: cannot write: no route");
    }
}
