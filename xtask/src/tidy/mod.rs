//! x
use std::path::Path;

use crate::run::Result;
pub fn check(_root: &Path) -> Result<()> {
    Ok(())
}
