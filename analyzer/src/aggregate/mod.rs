//! Records to latency histograms: [`key`] says what a record counts for, [`window`] when, [`histogram`] how long it took, [`keep`]
//! what becomes of it as a row of its own, and [`BlockAggregate`] sums one block of the log.
//!
//! No IO, no clock: the same block always gives the same rows, which is what makes writing a block again harmless. Never let
//! two blocks share a [`BlockAggregate`]: its caps are a block's own, so that nothing depends on who was read before.

pub mod histogram;
pub mod keep;
pub mod key;
pub mod window;

mod block;

pub use block::{Added, BlockAggregate, Figures, MAX_LATE_DAYS_PER_BLOCK, MAX_ROWS_PER_BLOCK, MAX_SERIES_PER_BLOCK, SeriesRow};
pub use keep::{Fate, Sampling};
pub use key::SeriesKey;
