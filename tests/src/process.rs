//! Child processes that cannot outlive the run: own process group, killed with the parent, marked for the next run.
//!
//! The kernel kills a child when the *thread* that started it ends (PR_SET_PDEATHSIG, prctl(2)), so one thread that lives
//! as long as the process starts them all.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

use crate::run::{MARK, Run};
use crate::{Context, Failure, Result, wait};

/// How long a process may take over an orderly stop before it is killed.
const GRACE: Duration = Duration::from_secs(20);

/// What to start.
#[derive(Debug)]
pub struct Spec {
    program: PathBuf,
    arguments: Vec<OsString>,
    environment: Vec<(String, String)>,
    folder: Option<PathBuf>,
    namespace: Option<String>,
    death_signal: i32,
}

impl Spec {
    /// A program with its arguments.
    pub fn new<A: AsRef<OsStr>>(program: impl Into<PathBuf>, arguments: impl IntoIterator<Item = A>) -> Self {
        Self {
            program: program.into(),
            arguments: arguments.into_iter().map(|argument| argument.as_ref().to_owned()).collect(),
            environment: Vec::new(),
            folder: None,
            namespace: None,
            death_signal: libc::SIGKILL,
        }
    }

    /// One more argument.
    pub fn argument(mut self, argument: impl AsRef<OsStr>) -> Self {
        self.arguments.push(argument.as_ref().to_owned());
        self
    }

    /// An environment variable.
    pub fn environment(mut self, name: &str, value: impl Into<String>) -> Self {
        self.environment.push((name.to_owned(), value.into()));
        self
    }

    /// Working directory.
    pub fn folder(mut self, folder: impl Into<PathBuf>) -> Self {
        self.folder = Some(folder.into());
        self
    }

    /// Network namespace to run in.
    pub fn namespace(mut self, name: &str) -> Self {
        self.namespace = Some(name.to_owned());
        self
    }

    /// Signal the kernel sends when this process dies: of a server with workers the one on which it stops them too.
    pub fn death_signal(mut self, signal: i32) -> Self {
        self.death_signal = signal;
        self
    }

    /// The command with its marks, without its output.
    pub fn command(&self, run: &Run) -> Result<Command> {
        let mut command = match &self.namespace {
            Some(namespace) => {
                let mut command = Command::new(crate::run::program("nsenter", "util-linux")?);
                command.arg(format!("--net=/run/netns/{namespace}")).arg("--").arg(&self.program);
                command
            }
            None => Command::new(&self.program),
        };
        command.args(&self.arguments).envs(self.environment.iter().map(|(name, value)| (name, value)));
        command.env(MARK, run.name()).stdin(Stdio::null()).process_group(0);
        if let Some(folder) = &self.folder {
            command.current_dir(folder);
        }
        let signal = self.death_signal;
        let parent = std::process::id();
        // SAFETY: only async-signal-safe calls between fork and exec.
        unsafe {
            command.pre_exec(move || {
                libc::prctl(libc::PR_SET_PDEATHSIG, signal);
                // The parent may have died before the line above.
                if libc::getppid() as u32 != parent {
                    libc::_exit(1);
                }
                Ok(())
            });
        }
        Ok(command)
    }
}

/// A running process; dropped, it is ended and waited for.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Mutex<Child>,
    log: PathBuf,
}

impl Process {
    /// Starts a process; what it prints goes to `<name>.log` in the run's folder.
    pub fn start(run: &Run, name: &str, spec: &Spec) -> Result<Self> {
        let log = run.root().join(format!("{name}.log"));
        let file = fs::OpenOptions::new().create(true).append(true).open(&log).context(format!("opening {}", log.display()))?;
        let mut command = spec.command(run)?;
        command.stdout(file.try_clone().context("sharing the log")?).stderr(file);
        let child = spawn(command).context(format!("starting {name} ({})", spec.program.display()))?;
        Ok(Self { name: name.to_owned(), child: Mutex::new(child), log })
    }

    /// Its name in messages.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Process id.
    pub fn pid(&self) -> u32 {
        self.child.lock().map_or_else(|poisoned| poisoned.into_inner().id(), |child| child.id())
    }

    /// All it has printed so far.
    pub fn log(&self) -> String {
        fs::read(&self.log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }

    /// The end of what it printed, for messages.
    pub fn log_tail(&self) -> String {
        tail(&self.log)
    }

    /// Its exit status if it has ended.
    pub fn exited(&self) -> Result<Option<ExitStatus>> {
        let mut child = self.child.lock().map_err(|_| Failure::new("a thread panicked while holding a process"))?;
        child.try_wait().context(format!("waiting for {}", self.name))
    }

    /// Waits until `probe` gives a value, and fails at once when the process ends before.
    pub fn until<T>(&self, what: &str, limit: Duration, mut probe: impl FnMut() -> Result<Option<T>>) -> Result<T> {
        let mut ended = None;
        let outcome = wait::until(what, limit, || {
            if let Some(status) = self.exited()? {
                ended = Some(status);
                return Ok(Some(None));
            }
            probe().map(|value| value.map(Some))
        });
        match (outcome, ended) {
            (Ok(Some(value)), _) => Ok(value),
            (_, Some(status)) => Err(Failure(format!("{} ended ({status}) before {what}; it said:\n{}", self.name, self.log_tail()))),
            (Err(error), None) => Err(Failure(format!("{error}; {} said:\n{}", self.name, self.log_tail()))),
            (Ok(None), None) => Err(Failure(format!("{} ended before {what}", self.name))),
        }
    }

    /// Sends a signal to the process alone.
    pub fn signal(&self, signal: i32) {
        // SAFETY: plain system call on a child that has not been waited for, so the pid is still its.
        unsafe { libc::kill(self.pid() as i32, signal) };
    }

    /// Waits for its end.
    pub fn wait(&self, limit: Duration) -> Result<ExitStatus> {
        wait::until(&format!("end of {}", self.name), limit, || self.exited())
            .map_err(|error| Failure(format!("{error}; {} said:\n{}", self.name, self.log_tail())))
    }

    /// Orderly stop: SIGTERM, then waits; the exit status is the caller's to judge.
    pub fn stop(&self) -> Result<ExitStatus> {
        if let Some(status) = self.exited()? {
            return Ok(status);
        }
        self.signal(libc::SIGTERM);
        self.wait(GRACE)
    }

    /// The cruel way, as an out-of-memory killer would.
    pub fn kill(&self) -> Result<()> {
        self.kill_group();
        self.wait(GRACE).map(|_| ())
    }

    fn kill_group(&self) {
        // SAFETY: plain system call; every process leads its own group.
        unsafe { libc::kill(-(self.pid() as i32), libc::SIGKILL) };
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if matches!(self.exited(), Ok(None)) {
            self.signal(libc::SIGTERM);
            // A test that failed wants its servers gone, not drained; so does whoever pressed Ctrl-C, within reason.
            let grace = if std::thread::panicking() { Duration::ZERO } else { Duration::from_secs(3) };
            let deadline = Instant::now() + grace;
            while matches!(self.exited(), Ok(None)) && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(10));
            }
        }
        self.kill_group();
        if let Ok(child) = self.child.get_mut() {
            let _ = child.wait();
        }
    }
}

/// What a program that ran to its end gave.
#[derive(Debug)]
pub struct Output {
    /// Exit code; 128 + n when signal n ended it.
    pub code: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

/// Runs a program to its end.
pub fn run_to_end(run: &Run, spec: &Spec, limit: Duration) -> Result<Output> {
    static NUMBER: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let paths = ["out", "err"].map(|stream| run.root().join(format!("command-{number}.{stream}")));
    let files = [File::create(&paths[0]), File::create(&paths[1])];
    let [out, err] = files.map(|file| file.context("making the files of a command's output"));
    let mut command = spec.command(run)?;
    command.stdout(out?).stderr(err?);
    let child = spawn(command).context(format!("starting {}", spec.program.display()))?;
    let name = spec.program.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let process = Process { name, child: Mutex::new(child), log: paths[1].clone() };
    let status = process.wait(limit)?;
    let [stdout, stderr] = paths.map(|path| {
        let bytes = fs::read(&path);
        let _ = fs::remove_file(&path);
        bytes.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).context("reading a command's output")
    });
    let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
    Ok(Output { code, stdout: stdout?, stderr: stderr? })
}

type Request = (Command, Sender<std::io::Result<Child>>);

/// Starts a command on the thread that never ends.
fn spawn(command: Command) -> Result<Child> {
    static SPAWNER: OnceLock<Mutex<Sender<Request>>> = OnceLock::new();
    let spawner = SPAWNER.get_or_init(|| {
        let (sender, receiver) = channel::<Request>();
        std::thread::spawn(move || {
            for (mut command, answer) in receiver {
                // The asker waits for the answer, so it is there.
                let _ = answer.send(command.spawn());
            }
        });
        Mutex::new(sender)
    });
    let (sender, receiver) = channel();
    let requests = spawner.lock().map_err(|_| Failure::new("the thread that starts processes is gone"))?;
    requests.send((command, sender)).context("handing a command to the thread that starts processes")?;
    receiver.recv().context("waiting for the thread that starts processes")?.context("spawn")
}

fn tail(path: &Path) -> String {
    let text = fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(25)..].join("\n")
}
