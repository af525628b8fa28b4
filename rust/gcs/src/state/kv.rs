//! Keys and values: pickled functions, the users' own, and the session's.

use std::collections::BTreeMap;

use bytes::Bytes;
use ray_rs_proto::v1;
use rustc_hash::FxHashMap;
use tonic::Status;

use super::{Durable, State};
use crate::storage::{Table, Write};

/// The name space of functions, which have a table of their own.
const FUNCTIONS: &str = "fun";
const SEPARATOR: u8 = 0;

#[derive(Debug, Default)]
pub(super) struct KeyValues {
    spaces: FxHashMap<String, BTreeMap<Vec<u8>, Bytes>>,
}

fn write_of(namespace: &str, key: &[u8], value: Option<Bytes>) -> Write {
    if namespace == FUNCTIONS {
        return Write {
            table: Table::Functions,
            key: key.to_vec(),
            value,
        };
    }
    let mut full = Vec::with_capacity(namespace.len() + 1 + key.len());
    full.extend_from_slice(namespace.as_bytes());
    full.push(SEPARATOR);
    full.extend_from_slice(key);
    Write {
        table: Table::KeyValue,
        key: full,
        value,
    }
}

impl KeyValues {
    pub(super) fn restore_function(&mut self, key: &[u8], value: &[u8]) {
        let space = self.spaces.entry(FUNCTIONS.to_owned()).or_default();
        space.insert(key.to_vec(), Bytes::copy_from_slice(value));
    }

    pub(super) fn restore(&mut self, full: &[u8], value: &[u8]) {
        let Some(at) = full.iter().position(|byte| *byte == SEPARATOR) else {
            return;
        };
        let Ok(namespace) = std::str::from_utf8(&full[..at]) else {
            return;
        };
        let space = self.spaces.entry(namespace.to_owned()).or_default();
        space.insert(full[at + 1..].to_vec(), Bytes::copy_from_slice(value));
    }

    pub(super) fn value(&self, namespace: &str, key: &[u8]) -> Option<Bytes> {
        self.spaces.get(namespace)?.get(key).cloned()
    }

    /// Sets a value, or forgets it; what is to be stored.
    pub(super) fn set(&mut self, namespace: &str, key: Vec<u8>, value: Option<Bytes>) -> Write {
        let write = write_of(namespace, &key, value.clone());
        let space = self.spaces.entry(namespace.to_owned()).or_default();
        match value {
            Some(value) => drop(space.insert(key, value)),
            None => drop(space.remove(&key)),
        }
        if space.is_empty() {
            self.spaces.remove(namespace);
        }
        write
    }

    pub(super) fn keys_with_prefix(&self, namespace: &str, prefix: &[u8]) -> Vec<Vec<u8>> {
        self.with_prefix(namespace, prefix).cloned().collect()
    }

    fn with_prefix<'a>(&'a self, namespace: &str, prefix: &'a [u8]) -> impl Iterator<Item = &'a Vec<u8>> {
        let space = self.spaces.get(namespace);
        space
            .into_iter()
            .flat_map(move |space| space.range(prefix.to_vec()..))
            .map(|(key, _)| key)
            .take_while(move |key| key.starts_with(prefix))
    }
}

impl State {
    pub fn kv_put(&mut self, request: v1::KvPutRequest) -> Result<(v1::KvPutReply, Durable), Status> {
        if request.namespace.as_bytes().contains(&SEPARATOR) {
            return Err(Status::invalid_argument("a namespace has no zero byte"));
        }
        let value = Bytes::from(request.value);
        let space = self.kv.spaces.entry(request.namespace.clone()).or_default();
        let existed = space.contains_key(&request.key);
        if existed && !request.overwrite {
            return Ok((v1::KvPutReply { existed }, self.durable_so_far()));
        }
        space.insert(request.key.clone(), value.clone());
        let durable = self.commit(vec![write_of(&request.namespace, &request.key, Some(value))]);
        Ok((v1::KvPutReply { existed }, durable))
    }

    pub fn kv_get(&self, request: &v1::KvGetRequest) -> v1::KvGetReply {
        let value = self
            .kv
            .spaces
            .get(&request.namespace)
            .and_then(|space| space.get(&request.key));
        v1::KvGetReply {
            found: value.is_some(),
            value: value.map(|value| value.to_vec()).unwrap_or_default(),
        }
    }

    pub fn kv_del(&mut self, request: &v1::KvDelRequest) -> (v1::KvDelReply, Durable) {
        let keys: Vec<Vec<u8>> = if request.by_prefix {
            self.kv.with_prefix(&request.namespace, &request.key).cloned().collect()
        } else {
            vec![request.key.clone()]
        };
        let mut writes = Vec::new();
        if let Some(space) = self.kv.spaces.get_mut(&request.namespace) {
            for key in keys {
                if space.remove(&key).is_some() {
                    writes.push(write_of(&request.namespace, &key, None));
                }
            }
            if space.is_empty() {
                self.kv.spaces.remove(&request.namespace);
            }
        }
        let deleted = u32::try_from(writes.len()).unwrap_or(u32::MAX);
        (v1::KvDelReply { deleted }, self.commit(writes))
    }

    pub fn kv_keys(&self, request: &v1::KvKeysRequest) -> v1::KvKeysReply {
        v1::KvKeysReply {
            keys: self
                .kv
                .with_prefix(&request.namespace, &request.prefix)
                .cloned()
                .collect(),
        }
    }
}
