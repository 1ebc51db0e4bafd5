//! Which slot of the table holds the connection between two ends.

use std::hash::{Hash, Hasher};
use std::net::IpAddr;

use rustc_hash::FxHashMap;

use crate::packet::Endpoint;

/// Beyond so many places for each connection, memory is given back.
pub(super) const SPARE: usize = 8;

/// Two ends with IPv4 addresses in twelve bytes: nearly all connections of a cluster, and looked up for each packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Short {
    addresses: [u32; 2],
    ports: u32,
}

impl Hash for Short {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(u64::from(self.addresses[0]) << 32 | u64::from(self.addresses[1]));
        state.write_u32(self.ports);
    }
}

impl Short {
    fn of(ends: &[Endpoint; 2]) -> Option<Self> {
        let (IpAddr::V4(a), IpAddr::V4(b)) = (ends[0].0, ends[1].0) else { return None };
        let ports = u32::from(ends[0].1) << 16 | u32::from(ends[1].1);
        Some(Self { addresses: [a.to_bits(), b.to_bits()], ports })
    }
}

/// The index. Ends are given in a fixed order.
#[derive(Debug, Default)]
pub(super) struct Index {
    short: FxHashMap<Short, u32>,
    long: FxHashMap<[Endpoint; 2], u32>,
}

impl Index {
    /// The slot of a connection.
    pub fn get(&self, ends: &[Endpoint; 2]) -> Option<u32> {
        match Short::of(ends) {
            Some(ends) => self.short.get(&ends).copied(),
            None => self.long.get(ends).copied(),
        }
    }

    /// Enters a connection.
    pub fn insert(&mut self, ends: &[Endpoint; 2], slot: u32) {
        match Short::of(ends) {
            Some(ends) => self.short.insert(ends, slot),
            None => self.long.insert(*ends, slot),
        };
    }

    /// Takes a connection out.
    pub fn remove(&mut self, ends: &[Endpoint; 2]) {
        match Short::of(ends) {
            Some(ends) => self.short.remove(&ends),
            None => self.long.remove(ends),
        };
    }

    /// Connections.
    pub fn len(&self) -> usize {
        self.short.len() + self.long.len()
    }

    /// Gives memory back that a flood of connections has left.
    pub fn shrink(&mut self) {
        if self.short.capacity() > SPARE * self.short.len().max(SPARE) {
            self.short.shrink_to_fit();
        }
        if self.long.capacity() > SPARE * self.long.len().max(SPARE) {
            self.long.shrink_to_fit();
        }
    }
}
