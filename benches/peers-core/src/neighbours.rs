//! Other replicated maps, each used as its documentation says.

use automerge::sync::SyncDoc;
use automerge::transaction::Transactable;
use automerge::{AutoCommit, ReadDoc, ScalarValue};
use crdts::{CmRDT, CvRDT, MVReg};
use loro::{ExportMode, LoroDoc, LoroValue};
use yrs::updates::decoder::Decode;
use yrs::updates::encoder::Encode;
use yrs::{Any, Doc, Map, MapRef, ReadTxn, StateVector, Transact, Update};

use crate::Replica;

pub(crate) struct Loro(LoroDoc);

impl Replica for Loro {
    const NAME: &'static str = "loro 1.17";

    fn new(author: u8) -> Self {
        let doc = LoroDoc::new();
        doc.set_peer_id(author.into()).expect("it is empty");
        Self(doc)
    }

    fn put(&mut self, key: &str, value: &[u8]) {
        self.0.get_map("m").insert(key, LoroValue::Binary(value.to_vec().into())).expect("it is attached");
        self.0.commit();
    }

    fn get(&mut self, key: &str) -> Option<Vec<u8>> {
        match self.0.get_map("m").get(key)?.into_value().ok()? {
            LoroValue::Binary(bytes) => Some(bytes.to_vec()),
            _ => None,
        }
    }

    fn sync(&mut self, other: &mut Self) -> usize {
        let seen = other.0.oplog_vv();
        let update = self.0.export(ExportMode::updates(&seen)).expect("the history is whole");
        other.0.import(&update).expect("it was just exported");
        seen.encode().len() + update.len()
    }
}

pub(crate) struct Yrs(Doc, MapRef);

impl Replica for Yrs {
    const NAME: &'static str = "yrs 0.28";

    fn new(author: u8) -> Self {
        let doc = Doc::with_client_id(u64::from(author));
        let map = doc.get_or_insert_map("m");
        Self(doc, map)
    }

    fn put(&mut self, key: &str, value: &[u8]) {
        self.1.insert(&mut self.0.transact_mut(), key, Any::Buffer(value.into()));
    }

    fn get(&mut self, key: &str) -> Option<Vec<u8>> {
        match self.1.get(&self.0.transact(), key)? {
            yrs::Out::Any(Any::Buffer(bytes)) => Some(bytes.to_vec()),
            _ => None,
        }
    }

    fn sync(&mut self, other: &mut Self) -> usize {
        let seen = other.0.transact().state_vector().encode_v1();
        let known = StateVector::decode_v1(&seen).expect("it was just encoded");
        let update = self.0.transact().encode_state_as_update_v1(&known);
        let decoded = Update::decode_v1(&update).expect("it was just encoded");
        other.0.transact_mut().apply_update(decoded).expect("nothing is missing");
        seen.len() + update.len()
    }
}

pub(crate) struct Automerge {
    doc: AutoCommit,
    /// What the sync protocol remembers of the peer.
    peer: automerge::sync::State,
}

impl Replica for Automerge {
    const NAME: &'static str = "automerge 0.12";

    fn new(author: u8) -> Self {
        let doc = AutoCommit::new().with_actor(automerge::ActorId::from([author; 16]));
        Self { doc, peer: automerge::sync::State::new() }
    }

    fn put(&mut self, key: &str, value: &[u8]) {
        let value = ScalarValue::Bytes(value.to_vec());
        self.doc.put(automerge::ROOT, key, value).expect("the root is a map");
        self.doc.commit();
    }

    fn get(&mut self, key: &str) -> Option<Vec<u8>> {
        let (value, _) = self.doc.get(automerge::ROOT, key).ok()??;
        value.as_bytes().map(<[u8]>::to_vec)
    }

    fn sync(&mut self, other: &mut Self) -> usize {
        let mut bytes = 0;
        loop {
            let there = self.doc.sync().generate_sync_message(&mut self.peer);
            let back = {
                if let Some(message) = there.clone() {
                    let message = message.encode();
                    bytes += message.len();
                    let message = automerge::sync::Message::decode(&message).expect("it was just encoded");
                    other.doc.sync().receive_sync_message(&mut other.peer, message).expect("it is sound");
                }
                other.doc.sync().generate_sync_message(&mut other.peer)
            };
            if there.is_none() && back.is_none() {
                return bytes;
            }
            if let Some(message) = back {
                let message = message.encode();
                bytes += message.len();
                let message = automerge::sync::Message::decode(&message).expect("it was just encoded");
                self.doc.sync().receive_sync_message(&mut self.peer, message).expect("it is sound");
            }
        }
    }
}

/// Its operations cannot be trusted to arrive (rust-crdt#10, #159), so that its whole state travels.
pub(crate) struct CrdtsMap {
    map: crdts::Map<String, MVReg<Vec<u8>, u8>, u8>,
    author: u8,
}

impl Replica for CrdtsMap {
    const NAME: &'static str = "crdts::Map 7.3";

    fn new(author: u8) -> Self {
        Self { map: crdts::Map::new(), author }
    }

    fn put(&mut self, key: &str, value: &[u8]) {
        let context = self.map.read_ctx().derive_add_ctx(self.author);
        let put = self.map.update(key, context, |register, context| register.write(value.to_vec(), context));
        self.map.apply(put);
    }

    fn get(&mut self, key: &str) -> Option<Vec<u8>> {
        self.map.get(&key.to_owned()).val?.read().val.into_iter().next()
    }

    fn sync(&mut self, other: &mut Self) -> usize {
        let config = bincode::config::standard();
        let bytes = bincode::serde::encode_to_vec(&self.map, config).expect("it has a form");
        let (state, _) = bincode::serde::decode_from_slice(&bytes, config).expect("it was just encoded");
        other.map.merge(state);
        bytes.len()
    }
}
