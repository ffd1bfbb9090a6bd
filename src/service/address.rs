//! The address that an opener names in the first bytes of a stream.

use std::fmt;
use std::str::FromStr;

/// A path of segments, such as `/tunnel/web/any`.
///
/// As text each segment stands behind a `/`; a `/` or `\` within a segment is escaped with a `\`. Empty segments count:
/// `/` is one of them, and the empty text is no segment at all.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RouteAddress {
    segments: Vec<String>,
}

/// A text or a list of segments is not an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AddressError {
    /// As text it is longer than [`RouteAddress::MAX_LEN`].
    #[error("an address has at most {max} bytes", max = RouteAddress::MAX_LEN)]
    TooLong,
    /// Text that is not empty begins with a `/`.
    #[error("an address begins with '/'")]
    NotAbsolute,
    /// A `\` stands before something else than `/` or `\`, or at the end.
    #[error("a '\\' in an address stands before '/' or '\\'")]
    BadEscape,
}

impl RouteAddress {
    /// The longest address as text, in bytes.
    pub const MAX_LEN: usize = 2048;

    /// Makes an address of unescaped segments.
    ///
    /// # Errors
    ///
    /// [`AddressError::TooLong`].
    pub fn from_segments<S: Into<String>>(
        segments: impl IntoIterator<Item = S>,
    ) -> Result<Self, AddressError> {
        let address = Self { segments: segments.into_iter().map(Into::into).collect() };
        if address.to_string().len() > Self::MAX_LEN { Err(AddressError::TooLong) } else { Ok(address) }
    }

    /// The segments, unescaped.
    pub fn segments(&self) -> &[String] {
        &self.segments
    }

    /// The segments behind a prefix, or `None` if the address does not begin with it.
    pub fn strip_prefix(&self, prefix: &[&str]) -> Option<&[String]> {
        let (head, rest) = self.segments.split_at_checked(prefix.len())?;
        head.iter().eq(prefix).then_some(rest)
    }
}

impl fmt::Display for RouteAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for segment in &self.segments {
            f.write_str("/")?;
            for part in segment.split_inclusive(['/', '\\']) {
                match part.strip_suffix(['/', '\\']) {
                    Some(plain) => write!(f, "{plain}\\{}", &part[plain.len()..])?,
                    None => f.write_str(part)?,
                }
            }
        }
        Ok(())
    }
}

impl FromStr for RouteAddress {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        if text.len() > Self::MAX_LEN {
            return Err(AddressError::TooLong);
        }
        let mut segments: Vec<String> = Vec::new();
        let mut characters = text.chars();
        while let Some(character) = characters.next() {
            match character {
                '/' => segments.push(String::new()),
                '\\' => {
                    let escaped = characters
                        .next()
                        .filter(|&c| c == '/' || c == '\\')
                        .ok_or(AddressError::BadEscape)?;
                    segments.last_mut().ok_or(AddressError::NotAbsolute)?.push(escaped);
                }
                plain => segments.last_mut().ok_or(AddressError::NotAbsolute)?.push(plain),
            }
        }
        Ok(Self { segments })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn text_and_segments_are_the_same_thing() {
        for (text, segments) in [
            ("", &[][..]),
            ("/", &[""]),
            ("//", &["", ""]),
            ("/tunnel/web/any", &["tunnel", "web", "any"]),
            (r"/a\/b/c\\d", &["a/b", r"c\d"]),
            ("/ä €", &["ä €"]),
        ] {
            let address = RouteAddress::from_segments(segments.iter().copied()).unwrap();
            assert_eq!(address.to_string(), text);
            assert_eq!(text.parse(), Ok(address));
        }
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for (text, error) in [
            ("a", AddressError::NotAbsolute),
            (r"\/", AddressError::NotAbsolute),
            (r"/\a", AddressError::BadEscape),
            (r"/a\", AddressError::BadEscape),
        ] {
            assert_eq!(text.parse::<RouteAddress>(), Err(error), "{text}");
        }
        assert_eq!("/".repeat(2049).parse::<RouteAddress>(), Err(AddressError::TooLong));
        assert!("/".repeat(2048).parse::<RouteAddress>().is_ok());
        assert_eq!(RouteAddress::from_segments(["/".repeat(1024)]), Err(AddressError::TooLong));
    }

    #[test]
    fn a_prefix_is_whole_segments() {
        let address: RouteAddress = "/gossip/control".parse().unwrap();
        assert_eq!(address.strip_prefix(&["gossip"]), Some(&["control".to_owned()][..]));
        assert_eq!(address.strip_prefix(&["gos"]), None);
        assert_eq!(address.strip_prefix(&["gossip", "control", "x"]), None);
    }

    proptest! {
        #[test]
        fn every_list_of_segments_survives_its_text(segments in prop::collection::vec(".{0,20}", 0..8)) {
            let address = RouteAddress::from_segments(segments).unwrap();
            prop_assert_eq!(address.to_string().parse(), Ok(address));
        }

        #[test]
        fn every_text_is_an_address_in_one_way_only(text in r"(/[a-z/\\]{0,6}){0,4}") {
            if let Ok(address) = text.parse::<RouteAddress>() {
                prop_assert_eq!(address.to_string(), text);
            }
        }
    }
}
