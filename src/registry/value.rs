//! Values of attributes as types of a program.

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::codec::{Malformed, decode_value, encode_value};

/// A type that can be the value of an attribute.
///
/// Ready codecs are [`Raw`], [`Utf8`], [`Json`] and [`Bincode`]. What is read may have been written by anybody:
/// [`unpack`](Self::unpack) must take every byte string without a panic.
///
/// ```
/// use snomesh::registry::{AttributeValue, Json};
///
/// #[derive(serde::Serialize, serde::Deserialize, PartialEq, Debug)]
/// struct Limits {
///     streams: u32,
/// }
///
/// let packed = Json(Limits { streams: 7 }).pack().unwrap();
/// assert_eq!(packed, br#"{"streams":7}"#);
/// assert_eq!(Json::unpack(&packed).unwrap(), Json(Limits { streams: 7 }));
/// assert!(Json::<Limits>::unpack(b"{}").is_err());
/// ```
pub trait AttributeValue: Sized {
    /// Why bytes are not such a value, or a value has no bytes.
    type Error: std::error::Error + Send + Sync + 'static;

    /// The value as bytes.
    ///
    /// # Errors
    ///
    /// The codec's own.
    fn pack(&self) -> Result<Vec<u8>, Self::Error>;

    /// The value that bytes stand for.
    ///
    /// # Errors
    ///
    /// The codec's own: they are no such value.
    fn unpack(bytes: &[u8]) -> Result<Self, Self::Error>;
}

/// Bytes are no value of the type, or the value cannot be written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ValueCodecError {
    /// They are no UTF-8.
    #[error("the value is no UTF-8")]
    Utf8(#[from] std::str::Utf8Error),
    /// They are no JSON of that type, or the type has no JSON, as a map without textual keys.
    #[error("the value is no such JSON")]
    Json(#[from] serde_json::Error),
    /// They are no bincode of that type.
    #[error("the value is no such bincode")]
    Bincode(#[from] Malformed),
}

impl PartialEq for ValueCodecError {
    fn eq(&self, other: &Self) -> bool {
        self.to_string() == other.to_string()
    }
}

/// Bytes as they are.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Raw(pub Vec<u8>);

impl AttributeValue for Raw {
    type Error = std::convert::Infallible;

    fn pack(&self) -> Result<Vec<u8>, Self::Error> {
        Ok(self.0.clone())
    }

    fn unpack(bytes: &[u8]) -> Result<Self, Self::Error> {
        Ok(Self(bytes.to_vec()))
    }
}

/// Text.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Utf8(pub String);

impl AttributeValue for Utf8 {
    type Error = ValueCodecError;

    fn pack(&self) -> Result<Vec<u8>, ValueCodecError> {
        Ok(self.0.clone().into_bytes())
    }

    fn unpack(bytes: &[u8]) -> Result<Self, ValueCodecError> {
        Ok(Self(std::str::from_utf8(bytes)?.to_owned()))
    }
}

/// Anything with a JSON: readable by people and by every language.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Json<T>(pub T);

impl<T: Serialize + DeserializeOwned> AttributeValue for Json<T> {
    type Error = ValueCodecError;

    fn pack(&self) -> Result<Vec<u8>, ValueCodecError> {
        Ok(serde_json::to_vec(&self.0)?)
    }

    fn unpack(bytes: &[u8]) -> Result<Self, ValueCodecError> {
        Ok(Self(serde_json::from_slice(bytes)?))
    }
}

/// Anything that serde knows, in few bytes; both ends need the same type, field for field.
///
/// The type must not be recursive and must have no sequence of elements without content, like `Vec<()>`: a few
/// hostile bytes would keep a reader busy for ever.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Bincode<T>(pub T);

impl<T: Serialize + DeserializeOwned> AttributeValue for Bincode<T> {
    type Error = ValueCodecError;

    fn pack(&self) -> Result<Vec<u8>, ValueCodecError> {
        Ok(encode_value(&self.0)?)
    }

    fn unpack(bytes: &[u8]) -> Result<Self, ValueCodecError> {
        Ok(Self(decode_value(bytes)?))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
    struct Nested {
        number: u64,
        texts: Vec<String>,
        maybe: Option<(bool, i8)>,
    }

    fn survives<V: AttributeValue<Error: std::fmt::Debug> + PartialEq + std::fmt::Debug>(value: &V) {
        assert_eq!(V::unpack(&value.pack().unwrap()).as_ref().ok(), Some(value));
    }

    proptest! {
        /// FEATURES S6.
        #[test]
        fn every_value_survives_every_codec(
            bytes in prop::collection::vec(any::<u8>(), 0..64),
            text in ".{0,32}",
            number in any::<u64>(),
            texts in prop::collection::vec(".{0,8}", 0..4),
            maybe in any::<Option<(bool, i8)>>(),
        ) {
            survives(&Raw(bytes));
            survives(&Utf8(text));
            let nested = Nested { number, texts, maybe };
            survives(&Json(nested.clone()));
            survives(&Bincode(nested));
        }

        #[test]
        fn no_bytes_make_a_codec_panic(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let _utf8 = Utf8::unpack(&bytes).is_ok();
            let _json = Json::<Nested>::unpack(&bytes).is_ok();
            let _bincode = Bincode::<Nested>::unpack(&bytes).is_ok();
        }
    }

    #[test]
    fn a_length_that_lies_and_bytes_that_are_left_are_refused() {
        // A vector of 2^62 bytes.
        let lies = [253, 0, 0, 0, 0, 0, 0, 0, 64];
        assert!(Bincode::<Vec<u8>>::unpack(&lies).is_err());
        assert!(Bincode::<Vec<String>>::unpack(&lies).is_err());
        let mut packed = Bincode(7_u32).pack().unwrap();
        packed.push(0);
        assert_eq!(Bincode::<u32>::unpack(&packed), Err(Malformed::Trailing { count: 1 }.into()));
    }
}
