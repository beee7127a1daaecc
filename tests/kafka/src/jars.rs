//! Kafka's jars and an archive of its classes, kept outside the tree.
//!
//! The jars are fetched by Maven, once. The archive (Java's "class data sharing") is made by the first server that is started
//! and makes each later start take less than half the time. Both appear in the cache under their names only when they are
//! whole; of several processes one makes them and the others wait.

use crate::server::{self, Net};
use crate::{PATIENCE, home};
use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Names another folder for the cache.
pub const CACHE: &str = "KLATCH_KAFKA_CACHE";

/// See the module.
#[derive(Clone, Debug)]
pub struct Jars {
    /// A class path.
    pub class_path: String,
    /// The archive of classes.
    pub archive: PathBuf,
}

impl Jars {
    /// Those of the cache; made first where they are missing.
    ///
    /// # Panics
    /// If they cannot be made: without Maven, without Java, without a registry to fetch from.
    pub fn get() -> Jars {
        let folder = folder();
        fs::create_dir_all(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
        let lock = folder.join("lock");
        let lock = File::create(&lock).unwrap_or_else(|e| panic!("{}: {e}", lock.display()));
        let jars = folder.join(format!("jars-{:016x}", hash(POM)));
        let archive = folder.join(format!("classes-{:016x}.jsa", hash((java_installed(), POM))));
        // A whole cache needs no lock.
        if !jars.is_dir() || !archive.is_file() {
            lock.lock().unwrap_or_else(|e| panic!("the cache's lock: {e}"));
            if !jars.is_dir() {
                fetch(&folder, &jars);
            }
            if !archive.is_file() {
                let made = folder.join("classes.tmp");
                let _ = fs::remove_file(&made);
                archive_classes(&Jars { class_path: class_path(&jars), archive: made.clone() });
                fs::rename(&made, &archive).unwrap_or_else(|e| panic!("{}: {e}", made.display()));
            }
        }
        Jars { class_path: class_path(&jars), archive }
    }
}

/// What is fetched: other jars are another folder.
const POM: &str = include_str!("../pom.xml");

fn hash(what: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    what.hash(&mut hasher);
    hasher.finish()
}

/// Python with confluent-kafka, which is librdkafka as programs in other languages have it. Made where it is missing.
///
/// # Panics
/// If it cannot be: without Python's `venv`, without a registry to fetch from.
pub fn python() -> PathBuf {
    let folder = folder();
    fs::create_dir_all(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let lock = folder.join("lock");
    let lock = File::create(&lock).unwrap_or_else(|e| panic!("{}: {e}", lock.display()));
    let wanted = fs::read_to_string(home().join("requirements.txt")).unwrap_or_default();
    // An environment knows where it is, so it is made in its place; what says that it is whole comes last.
    let made = folder.join(format!("python-{:016x}", hash(&wanted)));
    let (python, whole) = (made.join("bin/python"), made.join("whole"));
    if !whole.is_file() {
        lock.lock().unwrap_or_else(|e| panic!("the cache's lock: {e}"));
        if !whole.is_file() {
            run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&made));
            let pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--requirement"];
            run(Command::new(&python).args(pip).arg(home().join("requirements.txt")));
            fs::write(&whole, "").unwrap_or_else(|e| panic!("{}: {e}", whole.display()));
        }
    }
    python
}

fn run(command: &mut Command) {
    let run = command.stdin(Stdio::null()).output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let said = [&run.stdout[..], &run.stderr[..]].concat();
    assert!(run.status.success(), "{command:?}: {}", String::from_utf8_lossy(&said));
}

fn folder() -> PathBuf {
    if let Some(folder) = std::env::var_os(CACHE) {
        return folder.into();
    }
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from).unwrap_or_else(|| {
        let home = std::env::var_os("HOME").unwrap_or_else(|| panic!("neither {CACHE} nor HOME is set"));
        PathBuf::from(home).join(".cache")
    });
    cache.join("klatch").join(format!("kafka-{}", version()))
}

/// The version that `pom.xml` names.
fn version() -> String {
    let version = POM.split("<kafka.version>").nth(1).and_then(|rest| rest.split('<').next());
    version.unwrap_or_else(|| panic!("pom.xml names no version of Kafka")).to_owned()
}

/// Stands for the Java that is installed: another one cannot use its archive.
fn java_installed() -> u64 {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let java = std::env::split_paths(&path)
        .map(|folder| folder.join("java"))
        .find_map(|java| java.canonicalize().ok())
        .unwrap_or_else(|| panic!("there is no java: install a Java 17 or later"));
    let file = java.metadata().unwrap_or_else(|e| panic!("{}: {e}", java.display()));
    hash((java, file.len(), file.modified().ok()))
}

/// In an order of its own: the archive is for exactly this text.
fn class_path(jars: &Path) -> String {
    let mut paths: Vec<String> = fs::read_dir(jars)
        .unwrap_or_else(|e| panic!("{}: {e}", jars.display()))
        .filter_map(|entry| Some(entry.ok()?.path().to_string_lossy().into_owned()))
        .collect();
    paths.sort();
    paths.join(":")
}

fn fetch(folder: &Path, jars: &Path) {
    let made = folder.join("jars.tmp");
    match fs::remove_dir_all(&made) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => panic!("{}: {e}", made.display()),
        _ => {}
    }
    let mut maven = Command::new("mvn");
    maven
        .args(["--batch-mode", "--quiet", "--file"])
        .arg(home().join("pom.xml"))
        .args(["dependency:copy-dependencies", "-DincludeScope=runtime"])
        .arg(format!("-DoutputDirectory={}", made.display()));
    run(&mut maven);
    fs::rename(&made, jars).unwrap_or_else(|e| panic!("{}: {e}", made.display()));
}

/// Runs a server to its end; it writes down the classes that it has loaded.
fn archive_classes(jars: &Jars) {
    let folder = tempfile::tempdir().unwrap_or_else(|e| panic!("no folder: {e}"));
    let configs = server::configs(&Net::claim(), folder.path(), 1, 0, false, &[]);
    let [config] = &configs[..] else { return };
    config.format(jars);
    let mut server = config.start(jars, &[&format!("-XX:ArchiveClassesAtExit={}", jars.archive.display())]);
    server::ready(&server);
    let status = server.stop(PATIENCE).unwrap_or_else(|e| panic!("{e}: {:?}", server.output()));
    // Java says 143 for an end by SIGTERM, in order.
    assert!(jars.archive.is_file(), "no archive of classes: {status}: {:?}", server.output());
}
