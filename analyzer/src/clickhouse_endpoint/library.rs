//! The C interface of libchdb, opened at run time: the only unsafe code of the endpoint.
//!
//! Guarantee: what leaves this module owns its bytes; no pointer of the library is seen outside. The library is never
//! unloaded, because its background threads run until the process ends. The one misuse: opening it twice in one process
//! with different paths (it holds one engine a process and refuses the second path).

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::path::{Path, PathBuf};
use std::ptr;

use super::exception::Exception;

type Handle = *mut c_void;
type QueryWithParams = unsafe extern "C" fn(
    Handle,
    *const c_char,
    usize,
    *const c_char,
    usize,
    *const *const c_char,
    *const usize,
    *const *const c_char,
    *const usize,
    usize,
) -> Handle;

/// Why the engine could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum LibraryError {
    #[error(
        "cannot open libchdb at {path}: {reason}. It is libchdb.so of the npm package @chdb/lib-linux-x64-gnu 26.5.3: \
         `npm pack @chdb/lib-linux-x64-gnu@26.5.3`, unpack it, and name package/libchdb.so with --library or PODTAP_LIBCHDB \
         (`cargo xtask demo` and `cargo xtask test` put it into the cache by themselves)"
    )]
    Open { path: PathBuf, reason: String },
    #[error("libchdb at {path} has no function {name}; this endpoint is made for libchdb 26.5")]
    Symbol { path: PathBuf, name: &'static str },
}

/// The functions used, with the signatures of `chdb.h`.
pub struct Library {
    connect: unsafe extern "C" fn(c_int, *mut *mut c_char) -> *mut Handle,
    close: unsafe extern "C" fn(*mut Handle),
    query: QueryWithParams,
    result_buffer: unsafe extern "C" fn(Handle) -> *mut c_char,
    result_length: unsafe extern "C" fn(Handle) -> usize,
    result_error: unsafe extern "C" fn(Handle) -> *const c_char,
    result_rows_read: unsafe extern "C" fn(Handle) -> u64,
    storage_rows_read: unsafe extern "C" fn(Handle) -> u64,
    storage_bytes_read: unsafe extern "C" fn(Handle) -> u64,
    result_rows_written: unsafe extern "C" fn(Handle) -> u64,
    result_bytes_written: unsafe extern "C" fn(Handle) -> u64,
    destroy_result: unsafe extern "C" fn(Handle),
}

impl Library {
    /// Opens the library; it stays open until the process ends.
    pub fn open(path: &Path) -> Result<&'static Self, LibraryError> {
        // SAFETY: libchdb's initialisers do nothing but set up its own state; it brings no global allocator and replaces no
        // symbol of this program.
        let opened = unsafe { libloading::os::unix::Library::open(Some(path), libloading::os::unix::RTLD_NOW) };
        let library = Box::leak(Box::new(opened.map_err(|error| LibraryError::Open { path: path.to_owned(), reason: error.to_string() })?));
        macro_rules! symbol {
            ($name:literal) => {
                // SAFETY: the type is the one `chdb.h` declares for this name, and the library is never closed.
                *unsafe { library.get(concat!($name, "\0").as_bytes()) }
                    .map_err(|_| LibraryError::Symbol { path: path.to_owned(), name: $name })?
            };
        }
        Ok(Box::leak(Box::new(Self {
            connect: symbol!("chdb_connect"),
            close: symbol!("chdb_close_conn"),
            query: symbol!("chdb_query_with_params_n"),
            result_buffer: symbol!("chdb_result_buffer"),
            result_length: symbol!("chdb_result_length"),
            result_error: symbol!("chdb_result_error"),
            result_rows_read: symbol!("chdb_result_rows_read"),
            storage_rows_read: symbol!("chdb_result_storage_rows_read"),
            storage_bytes_read: symbol!("chdb_result_storage_bytes_read"),
            result_rows_written: symbol!("chdb_result_rows_written"),
            result_bytes_written: symbol!("chdb_result_bytes_written"),
            destroy_result: symbol!("chdb_destroy_query_result"),
        })))
    }

    /// A connection to the engine over `path`, started by the first call. Cheap afterwards (below a millisecond), which is
    /// why every request without a session gets its own.
    pub fn connect(&'static self, path: &Path) -> Result<Connection, Exception> {
        let option = CString::new(format!("--path={}", path.display()))
            .map_err(|_| Exception::new(super::exception::BAD_ARGUMENTS, "the path contains a NUL byte"))?;
        let mut arguments = [c"clickhouse".as_ptr().cast_mut(), option.as_ptr().cast_mut()];
        // SAFETY: argc matches argv, whose strings live until the call returns; the engine copies them.
        let connection = unsafe { (self.connect)(2, arguments.as_mut_ptr()) };
        if connection.is_null() {
            let reason = format!("libchdb could not start its engine on {}", path.display());
            return Err(Exception::new(super::exception::STD_EXCEPTION, reason));
        }
        Ok(Connection { library: self, connection })
    }
}

/// What a query returned besides what it wrote into its OUTFILE.
#[derive(Debug, Default, Clone)]
pub struct Outcome {
    pub output: Vec<u8>,
    pub statistics: Statistics,
}

/// Rows and bytes as `X-ClickHouse-Summary` counts them.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Statistics {
    pub read_rows: u64,
    pub read_bytes: u64,
    pub written_rows: u64,
    pub written_bytes: u64,
    pub result_rows: u64,
}

/// One session inside the engine: settings, current database and temporary tables are its own.
pub struct Connection {
    library: &'static Library,
    connection: *mut Handle,
}

// SAFETY: the library locks a connection during each call and attaches its thread state per call, so a connection may move
// between threads; `&mut self` in `execute` keeps two calls from overlapping.
unsafe impl Send for Connection {}

impl Connection {
    /// Runs one statement. `format` is the format of results that name none; `params` are the values of `{name:Type}`, in
    /// the escaping of a tab-separated field, as ClickHouse's HTTP interface takes them.
    pub fn execute(&mut self, sql: &[u8], format: &str, params: &[(String, Vec<u8>)]) -> Result<Outcome, Exception> {
        let names: Vec<*const c_char> = params.iter().map(|(name, _)| name.as_ptr().cast()).collect();
        let name_lengths: Vec<usize> = params.iter().map(|(name, _)| name.len()).collect();
        let values: Vec<*const c_char> = params.iter().map(|(_, value)| value.as_ptr().cast()).collect();
        let value_lengths: Vec<usize> = params.iter().map(|(_, value)| value.len()).collect();
        let or_null = |list: *const *const c_char| if params.is_empty() { ptr::null() } else { list };
        let or_null_lengths = |list: *const usize| if params.is_empty() { ptr::null() } else { list };
        // SAFETY: `connection` came from chdb_connect and is not closed before drop; every pointer is valid for its length
        // during the call; the four arrays have `params.len()` elements.
        let result = unsafe {
            (self.library.query)(
                *self.connection,
                sql.as_ptr().cast(),
                sql.len(),
                format.as_ptr().cast(),
                format.len(),
                or_null(names.as_ptr()),
                or_null_lengths(name_lengths.as_ptr()),
                or_null(values.as_ptr()),
                or_null_lengths(value_lengths.as_ptr()),
                params.len(),
            )
        };
        if result.is_null() {
            return Err(Exception::new(super::exception::STD_EXCEPTION, "libchdb returned no result"));
        }
        // SAFETY: `result` is a live result of this library; what is borrowed from it is copied before it is destroyed.
        unsafe {
            let outcome = self.take_result(result);
            (self.library.destroy_result)(result);
            outcome
        }
    }

    /// # Safety
    /// `result` must be a live result of this connection's library.
    unsafe fn take_result(&self, result: Handle) -> Result<Outcome, Exception> {
        let library = self.library;
        // SAFETY: as the caller promises; the error is a NUL-terminated string or null, and the buffer holds `length` bytes.
        unsafe {
            let error = (library.result_error)(result);
            if !error.is_null() {
                return Err(Exception::from_engine(&CStr::from_ptr(error).to_string_lossy()));
            }
            let (buffer, length) = ((library.result_buffer)(result), (library.result_length)(result));
            let output = match buffer.is_null() || length == 0 {
                true => Vec::new(),
                false => std::slice::from_raw_parts(buffer.cast::<u8>(), length).to_vec(),
            };
            let statistics = Statistics {
                read_rows: (library.storage_rows_read)(result),
                read_bytes: (library.storage_bytes_read)(result),
                written_rows: (library.result_rows_written)(result),
                written_bytes: (library.result_bytes_written)(result),
                result_rows: (library.result_rows_read)(result),
            };
            Ok(Outcome { output, statistics })
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        // SAFETY: the pointer came from chdb_connect and is closed once, here.
        unsafe { (self.library.close)(self.connection) }
    }
}
