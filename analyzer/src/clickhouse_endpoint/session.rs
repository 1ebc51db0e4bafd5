//! Sessions: connections that outlive a request, for clients that send `session_id`.
//!
//! Guarantee: one request at a time uses a session, as in ClickHouse (another gets SESSION_IS_LOCKED); a session that was not
//! used for its timeout is closed with its temporary tables. The one misuse: keeping a session's connection beyond the
//! request (hand it back with [`Sessions::put`], or drop it to end the session).

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::engine::Engine;
use super::exception::{Exception, SESSION_IS_LOCKED, SESSION_NOT_FOUND, TOO_MANY_SIMULTANEOUS_QUERIES};
use super::library::Connection;
use super::request::SessionName;

/// Sessions kept at once; each holds a connection and its temporary tables.
const MAX_SESSIONS: usize = 1000;

enum Slot {
    Busy,
    Idle { connection: Connection, expires: Instant },
}

#[derive(Default)]
pub struct Sessions(Mutex<HashMap<String, Slot>>);

impl Sessions {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Slot>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the session's connection for one request; a new one if the session is not there.
    pub fn take(&self, engine: &Engine, name: &SessionName, now: Instant) -> Result<Connection, Exception> {
        self.expire(now);
        let mut slots = self.lock();
        match slots.get_mut(&name.id) {
            Some(Slot::Busy) => {
                return Err(Exception::new(SESSION_IS_LOCKED, format!("Session {} is locked by a concurrent client", name.id)));
            }
            Some(slot @ Slot::Idle { .. }) => {
                if let Slot::Idle { connection, .. } = std::mem::replace(slot, Slot::Busy) {
                    return Ok(connection);
                }
            }
            None => {}
        }
        if name.must_exist {
            return Err(Exception::new(SESSION_NOT_FOUND, format!("Session {} not found", name.id)));
        }
        if slots.len() >= MAX_SESSIONS {
            return Err(Exception::new(TOO_MANY_SIMULTANEOUS_QUERIES, format!("Too many sessions: {MAX_SESSIONS} are open")));
        }
        let connection = engine.connect()?;
        slots.insert(name.id.clone(), Slot::Busy);
        Ok(connection)
    }

    /// Gives the connection back; none ends the session.
    pub fn put(&self, name: &SessionName, connection: Option<Connection>, now: Instant) {
        let mut slots = self.lock();
        match connection {
            Some(connection) => slots.insert(name.id.clone(), Slot::Idle { connection, expires: now + name.timeout }),
            None => slots.remove(&name.id),
        };
    }

    /// Closes what was not used for its time.
    pub fn expire(&self, now: Instant) {
        self.lock().retain(|_, slot| !matches!(slot, Slot::Idle { expires, .. } if *expires <= now));
    }

    /// Sessions open now.
    pub fn count(&self) -> usize {
        self.lock().len()
    }
}
