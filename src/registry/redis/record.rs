//! The value of a registration, as bytes that somebody else may have written.

use std::collections::HashMap;
use std::sync::Arc;

use crate::codec::{Malformed, Reader, Writer};
use crate::id::{NodeId, TunnelId, TunnelName};
use crate::registry::Registration;

/// The longest record, in bytes.
pub(super) const MAX_RECORD: usize = 64 * 1024;

/// The first byte of every record of this version.
const VERSION: u8 = 1;

/// The record: version, name, tunnel, node, holder, attributes in the order of their names.
pub(super) fn encode(registration: &Registration) -> Vec<u8> {
    let Registration { name, tunnel, node, holder, attributes } = registration;
    let mut writer = Writer::new();
    writer.byte(VERSION);
    writer.bytes(name.as_str().as_bytes());
    writer.fixed64(tunnel.0);
    for node in [node, holder] {
        writer.byte(u8::from(node.is_some()));
        writer.raw(node.as_ref().map_or(&[], |node| node.as_bytes().as_slice()));
    }
    let mut attributes: Vec<_> = attributes.iter().collect();
    attributes.sort();
    writer.count(attributes.len());
    for (name, value) in attributes {
        writer.bytes(name.as_bytes());
        writer.bytes(value);
    }
    writer.finish()
}

/// A record of that very name.
pub(super) fn decode(bytes: &[u8], sought: &TunnelName) -> Result<Registration, Malformed> {
    if bytes.len() > MAX_RECORD {
        let (found, limit) = (bytes.len() as u64, MAX_RECORD as u64);
        return Err(Malformed::OverLimit { what: "a record", found, limit });
    }
    let mut reader = Reader::new(bytes);
    let version = reader.byte()?;
    if version != VERSION {
        return Err(Malformed::Unknown { what: "a record's version", tag: version.into() });
    }
    if reader.text(TunnelName::MAX_LEN, "a tunnel's name")? != sought.as_str() {
        return Err(Malformed::Illegal { what: "the name of the tunnel" });
    }
    let tunnel = TunnelId(reader.fixed64()?);
    let mut node =
        || Ok::<_, Malformed>(if reader.flag()? { Some(NodeId::from_bytes(reader.array()?)) } else { None });
    let (node, holder) = (node()?, node()?);
    let (mut attributes, mut last) = (HashMap::new(), None);
    for _ in 0..reader.count(MAX_RECORD, "count of attributes")? {
        let name = reader.text(MAX_RECORD, "an attribute's name")?;
        let value = reader.bytes(MAX_RECORD, "an attribute's value")?;
        if last.is_some_and(|last| last >= name) {
            return Err(Malformed::NotCanonical);
        }
        last = Some(name);
        attributes.insert(name.to_owned(), value.to_vec());
    }
    reader.finish()?;
    Ok(Registration { name: sought.clone(), tunnel, node, holder, attributes: Arc::new(attributes) })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::registry::conformance::registration;

    fn node() -> impl Strategy<Value = Option<NodeId>> {
        any::<Option<[u8; 32]>>().prop_map(|bytes| bytes.map(NodeId::from_bytes))
    }

    proptest! {
        /// FEATURES S8.
        #[test]
        fn every_registration_survives_its_record_and_no_other_name_gets_it(
            tunnel in any::<u64>(),
            node in node(),
            holder in node(),
            attributes in prop::collection::hash_map(".{0,8}", prop::collection::vec(any::<u8>(), 0..20), 0..5),
        ) {
            let given = Registration {
                node, holder, attributes: Arc::new(attributes), ..registration("web", tunnel)
            };
            let bytes = encode(&given);
            prop_assert_eq!(decode(&bytes, &given.name), Ok(given));
            prop_assert!(decode(&bytes, &"db".parse().unwrap()).is_err());
        }

        #[test]
        fn damaged_records_and_noise_are_refused_or_read_and_never_panic(
            noise in prop::collection::vec(any::<u8>(), 0..80),
            at in 0usize..60,
            byte in any::<u8>(),
        ) {
            let name: TunnelName = "web".parse().unwrap();
            let _noise = decode(&noise, &name).is_ok();
            let mut bytes = encode(&registration("web", 7));
            let at = at % bytes.len();
            bytes[at] = byte;
            if let Ok(read) = decode(&bytes, &name) {
                prop_assert_eq!(&encode(&read), &bytes);
            }
            prop_assert!(decode(&bytes[..at], &name).is_err());
        }
    }
}
