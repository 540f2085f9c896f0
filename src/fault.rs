//! Where a test can make the operating system fail, or the process die, at a named point. Without the feature
//! `failpoints` of the crate `fail`, which only tests switch on, a point costs nothing. What follows from a fault is the
//! business of whoever meets it.

use std::io;

/// A place where a test can interfere: passes, unless the point of that name is set to
/// - `return(kill)`: the process is aborted on the spot;
/// - `return(enospc)` or `return(eio)`: gives the error that a system call would give on a full or a broken disk.
#[inline]
pub fn point(name: &str) -> io::Result<()> {
    if !fail::has_failpoints() {
        return Ok(());
    }
    fail::eval(name, |action| fault(action.as_deref())).unwrap_or(Ok(()))
}

/// Sets the points as the environment variable `FAILPOINTS` says, for as long as the value lives.
pub fn from_environment() -> Option<fail::FailScenario<'static>> {
    fail::has_failpoints().then(fail::FailScenario::setup)
}

fn fault(action: Option<&str>) -> io::Result<()> {
    const EIO: i32 = 5;
    const ENOSPC: i32 = 28;
    match action {
        Some("enospc") => Err(io::Error::from_raw_os_error(ENOSPC)),
        Some("eio") => Err(io::Error::from_raw_os_error(EIO)),
        Some("kill") => std::process::abort(),
        _ => Err(io::Error::other("the point is set to an action that is none of kill, enospc and eio")),
    }
}

/// Points are set for a whole process, so a test that sets some runs in one of its own.
#[cfg(test)]
pub mod testing {
    use std::path::{Path, PathBuf};
    use std::process::{Command, Output};

    const CHILD: &str = "FIDELIO_TEST_CHILD";

    /// Runs the body of the test `name` (its whole path, such as `fault::tests::a_point_passes`) in a new process with
    /// these points set, for example `sink.sync=return(eio)`. Gives what became of that process to the caller, and
    /// `None` to the one inside it, after the body has run. Both may use the same folder: `dir` is the caller's, and the
    /// body is given it.
    pub fn in_child(name: &str, points: &str, dir: &Path, body: impl FnOnce(&Path)) -> Option<Output> {
        if let Some(dir) = std::env::var_os(CHILD) {
            let _points = super::from_environment();
            body(&PathBuf::from(dir));
            return None;
        }
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", name, "--nocapture"])
            .env(CHILD, dir)
            .env("FAILPOINTS", points)
            .output()
            .unwrap();
        let ran = String::from_utf8_lossy(&child.stdout).contains("running 1 test");
        assert!(ran, "there is no test of the name {name}");
        Some(child)
    }

    /// [`in_child`], for a body that is expected to end well.
    pub fn isolated(name: &str, points: &str, body: impl FnOnce()) {
        if let Some(child) = in_child(name, points, Path::new("."), |_| body()) {
            let said = [&child.stdout[..], &child.stderr[..]].concat();
            assert!(child.status.success(), "{}", String::from_utf8_lossy(&said));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::testing::{in_child, isolated};
    use super::*;

    #[test]
    fn a_point_that_is_not_set_passes() {
        assert!(point("fault.test.unset").is_ok());
    }

    #[test]
    fn a_point_fails_like_the_system_call_it_stands_for() {
        let points = "fault.test.full=return(enospc);fault.test.broken=return(eio)";
        isolated("fault::tests::a_point_fails_like_the_system_call_it_stands_for", points, || {
            assert_eq!(point("fault.test.full").unwrap_err().kind(), io::ErrorKind::StorageFull);
            assert_eq!(point("fault.test.broken").unwrap_err().raw_os_error(), Some(5));
        });
    }

    #[test]
    fn a_point_can_kill_the_process() {
        let name = "fault::tests::a_point_can_kill_the_process";
        let child = in_child(name, "fault.test.kill=return(kill)", Path::new("."), |_| {
            let _ = point("fault.test.kill");
            println!("still alive");
        });
        if let Some(child) = child {
            assert!(!child.status.success());
            assert!(!String::from_utf8_lossy(&child.stdout).contains("still alive"));
        }
    }
}
