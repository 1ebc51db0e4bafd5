//! When something is wrong: rules ([`rule`]), what they find ([`evaluate`]) and the alarms that come of it ([`state`]).
//!
//! No IO, no clock: `now` is an argument, figures come from [`crate::query`], deciding is separate from telling ([`crate::notify`]).
//! A rule that could not be evaluated is a failure to be shown, never "nothing found".

pub mod evaluate;
pub mod fingerprint;
pub mod rule;
pub mod state;
