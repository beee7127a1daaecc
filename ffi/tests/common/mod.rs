//! Compiling and running C programs with the library that was just built.
#![allow(clippy::unwrap_used, dead_code)]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

/// The crate's directory.
pub fn crate_dir() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Where the header is.
pub fn include_dir() -> PathBuf {
    crate_dir().join("../include")
}

/// Runs a program to its end, which must be a good one, without a word on standard error.
pub fn run(command: &mut Command) -> String {
    let output: Output = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    let silent = output.status.success() && err.is_empty();
    assert!(silent, "{command:?}: {}\n{out}\n{err}", output.status);
    out
}

/// The shared library that cargo has built for this test.
pub fn shared_library() -> PathBuf {
    built("libklatch_c.so")
}

/// The static one, with everything in it as it was.
pub fn static_library() -> PathBuf {
    built("libklatch_c.a")
}

fn built(name: &str) -> PathBuf {
    let path = std::env::current_exe().unwrap().parent().unwrap().join(name);
    assert!(path.exists(), "{} is not there", path.display());
    path
}

/// A directory with the shared library under the names that it has where it is installed.
pub fn library_dir() -> &'static Path {
    static DIR: OnceLock<tempfile::TempDir> = OnceLock::new();
    DIR.get_or_init(|| {
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        for name in ["libklatch.so", "libklatch.so.0"] {
            std::os::unix::fs::symlink(shared_library(), dir.path().join(name)).unwrap();
        }
        dir
    })
    .path()
}

/// A C program in a directory of its own.
pub struct Program {
    dir: tempfile::TempDir,
    name: String,
}

impl Program {
    /// Compiles `tests/c/<name>.c` with all warnings, as an error each.
    pub fn build(name: &str, flags: &[&str]) -> Program {
        let source = crate_dir().join("tests/c").join(format!("{name}.c"));
        Program::build_source(name, &source, flags)
    }

    /// The same for a text that was made.
    pub fn build_text(name: &str, text: &str, flags: &[&str]) -> Program {
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let source = dir.path().join(format!("{name}.c"));
        std::fs::write(&source, text).unwrap();
        Program::build_source(name, &source, flags)
    }

    /// Compiles `tests/cpp/<name>.cpp` in the same way.
    pub fn build_cpp(name: &str) -> Program {
        let source = crate_dir().join("tests/cpp").join(format!("{name}.cpp"));
        Program::compile(Command::new("g++").arg("-std=c++17"), name, &source, &[])
    }

    fn build_source(name: &str, source: &Path, flags: &[&str]) -> Program {
        Program::compile(Command::new("cc").args(["-std=c11", "-D_GNU_SOURCE"]), name, source, flags)
    }

    fn compile(compiler: &mut Command, name: &str, source: &Path, flags: &[&str]) -> Program {
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        run(compiler
            .args(["-O1", "-g", "-Wall", "-Wextra", "-Wpedantic", "-Wshadow", "-Werror"])
            .arg("-I")
            .arg(include_dir())
            .arg("-I")
            .arg(crate_dir().join("tests/c"))
            .arg("-o")
            .arg(dir.path().join(name))
            .arg(source)
            .arg("-L")
            .arg(library_dir())
            .arg(format!("-Wl,-rpath,{}", library_dir().display()))
            .args(["-lklatch", "-lpthread"])
            .args(flags));
        Program { dir, name: name.into() }
    }

    /// Where it is.
    pub fn path(&self) -> PathBuf {
        self.dir.path().join(&self.name)
    }

    /// An empty directory, each time another.
    fn run_dir(&self) -> PathBuf {
        tempfile::tempdir_in(self.dir.path()).unwrap().keep()
    }

    /// Runs it in an empty directory, to a good end; what it printed.
    pub fn run(&self) -> String {
        run(&mut self.command())
    }

    /// A command that runs it in an empty directory.
    pub fn command(&self) -> Command {
        let mut command = Command::new(self.path());
        command.current_dir(self.run_dir());
        command
    }

    /// Runs it under valgrind: an error or a block that is definitely lost fails.
    pub fn valgrind(&self) -> String {
        run(Command::new("valgrind")
            .args(["--quiet", "--error-exitcode=99", "--leak-check=full"])
            .args(["--errors-for-leak-kinds=definite", "--show-leak-kinds=definite", "--num-callers=30"])
            .args(["--fair-sched=yes", "--child-silent-after-fork=yes"])
            .arg(self.path())
            .current_dir(self.run_dir()))
    }
}
