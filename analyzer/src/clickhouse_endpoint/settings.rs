//! Settings of one request, given to the engine before its query and taken back after it where the connection lives on.
//!
//! Guarantee: names and values reach the engine quoted, so that a value cannot become SQL. The one misuse: setting `readonly`
//! with the others (nothing can be set after it; [`read_only`] comes last).

use super::exception::{BAD_ARGUMENTS, Exception};
use super::library::Connection;
use super::request::Request;

/// A string as SQL writes it.
pub fn quoted(value: &str) -> String {
    format!("'{}'", value.replace('\\', "\\\\").replace('\'', "\\'"))
}

/// A name as SQL writes it.
pub fn quoted_name(name: &str) -> String {
    format!("`{}`", name.replace('\\', "\\\\").replace('`', "\\`"))
}

/// What to run to have a session as it was.
pub struct Applied(Vec<String>);

impl Applied {
    /// Sets the request's settings and database.
    pub fn apply(connection: &mut Connection, request: &Request, session: bool) -> Result<Self, Exception> {
        let mut undo = Vec::new();
        let settings: Vec<_> = request.settings.iter().filter(|(name, _)| name != "readonly").collect();
        for (name, _) in &settings {
            if !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'.') {
                return Err(Exception::new(BAD_ARGUMENTS, format!("'{name}' is not the name of a setting")));
            }
        }
        if !settings.is_empty() {
            if session {
                undo.push(earlier(connection, settings.iter().map(|(name, _)| name.as_str()))?);
            }
            let list: Vec<_> = settings.iter().map(|(name, value)| format!("{name} = {}", quoted(value))).collect();
            connection.execute(format!("SET {}", list.join(", ")).as_bytes(), "Null", &[])?;
        }
        if let Some(database) = &request.database {
            if session {
                let current = connection.execute(b"SELECT currentDatabase()", "TabSeparatedRaw", &[])?;
                undo.push(format!("USE {}", quoted_name(String::from_utf8_lossy(&current.output).trim_end())));
            }
            connection.execute(format!("USE {}", quoted_name(database)).as_bytes(), "Null", &[])?;
        }
        Ok(Self(undo))
    }

    pub fn restore(self, connection: &mut Connection) -> Result<(), Exception> {
        for sql in self.0 {
            connection.execute(sql.as_bytes(), "Null", &[])?;
        }
        Ok(())
    }
}

/// A SET that gives these settings their present values.
fn earlier<'a>(connection: &mut Connection, names: impl Iterator<Item = &'a str>) -> Result<String, Exception> {
    let names: Vec<_> = names.map(quoted).collect();
    let sql = format!(
        "SELECT if(changed, concat(name, ' = ''', \
         replaceAll(replaceAll(trim(BOTH '''' FROM value), '\\\\', '\\\\\\\\'), '''', '\\\\'''), ''''), \
         concat(name, ' = DEFAULT')) FROM system.settings WHERE name IN ({})",
        names.join(", ")
    );
    let outcome = connection.execute(sql.as_bytes(), "TabSeparatedRaw", &[])?;
    let list: Vec<_> = String::from_utf8_lossy(&outcome.output).lines().map(str::to_owned).collect();
    // Unknown names are none of system.settings; setting them fails with the engine's own error.
    Ok(if list.is_empty() { "SELECT 1".into() } else { format!("SET {}", list.join(", ")) })
}

/// From here on nothing is changed: what the client asked for, and for GET at least 2, as in ClickHouse.
pub fn read_only(connection: &mut Connection, request: &Request) -> Result<(), Exception> {
    let asked = request.settings.iter().rev().find(|(name, _)| name == "readonly").map(|(_, value)| value.as_str());
    let value = match asked {
        Some("0") | None if request.read_only => "2",
        Some(value) => value,
        None => return Ok(()),
    };
    if request.session.is_some() {
        // Within a session it could not be taken back; the kind of the statement was checked before.
        return Ok(());
    }
    connection.execute(format!("SET readonly = {}", quoted(value)).as_bytes(), "Null", &[]).map(drop)
}
