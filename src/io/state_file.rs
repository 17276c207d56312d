//! The file that outlives a restart: read whole, and written whole or not at all.

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat, renameat};
use nix::sys::stat::Mode;
use nix::unistd::{UnlinkatFlags, unlinkat};
use std::ffi::{OsStr, OsString};
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// What it holds; `None` where there is none. One longer than `limit` bytes is an error.
pub fn read(path: &Path, limit: usize) -> io::Result<Option<String>> {
    // A pipe in its place would wait for a writer otherwise; on a file the flag does nothing.
    let options = OpenOptions::new()
        .read(true)
        .custom_flags(OFlag::O_NONBLOCK.bits())
        .open(path);
    let file = match options {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is no regular file"));
    }
    let mut text = String::new();
    let most = u64::try_from(limit).unwrap_or(u64::MAX).saturating_add(1);
    file.take(most).read_to_string(&mut text)?;
    if text.len() > limit {
        return Err(io::Error::other(format!("it is longer than {limit} bytes")));
    }
    Ok(Some(text))
}

/// Writes beside it and moves that into its place, so that a crash leaves the old or the new one.
pub fn write(path: &Path, text: &str) -> io::Result<()> {
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty());
    // Held open, so that all is done in the same folder, whatever becomes of its name.
    let folder = File::open(folder.unwrap_or(Path::new(".")))?;
    let mut beside = OsString::from(name);
    beside.push(format!(".{}", std::process::id()));
    let written = write_new(&folder, &beside, text)
        .and_then(|()| Ok(renameat(&folder, &*beside, &folder, name)?));
    if written.is_err() {
        // It may not even have been made.
        let _ = unlinkat(&folder, &*beside, UnlinkatFlags::NoRemoveDir);
    }
    written?;
    // Where a folder cannot be synced, the file's name is as safe as the system makes it.
    let _ = folder.sync_all();
    Ok(())
}

/// A file that was not there before: what a crash left under this name goes, and a link that somebody put
/// there leads nowhere. Tags and addresses are nobody else's business.
fn write_new(folder: &impl AsFd, name: &OsStr, text: &str) -> io::Result<()> {
    let create = || {
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL;
        let flags = flags | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        openat(folder, name, flags, Mode::S_IRUSR | Mode::S_IWUSR)
    };
    let made = match create() {
        Err(Errno::EEXIST) => {
            unlinkat(folder, name, UnlinkatFlags::NoRemoveDir)?;
            create()
        }
        made => made,
    };
    let mut file = File::from(made?);
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::unistd::mkfifo;
    use std::fs;
    use std::os::unix::fs::symlink;

    #[test]
    fn it_is_replaced_whole_and_nothing_is_left_beside_it() {
        let folder = std::env::temp_dir().join(format!("sidecast-state-{}", std::process::id()));
        fs::create_dir(&folder).unwrap();
        let path = folder.join("state.yaml");
        assert_eq!(read(&path, 5).unwrap(), None);
        for text in ["one: 1\n", "a: 2\n", ""] {
            write(&path, text).unwrap();
            assert_eq!(read(&path, 7).unwrap().as_deref(), Some(text));
            assert_eq!(read(&path, 4).is_err(), text.len() > 4);
        }
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 1);
        assert!(write(&folder.join("no/such.yaml"), "x").is_err());
        fs::create_dir(folder.join("taken")).unwrap();
        assert!(write(&folder.join("taken"), "x").is_err());
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 2);
        fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn a_link_beside_it_leads_nowhere_and_a_pipe_is_not_waited_for() {
        let folder = std::env::temp_dir().join(format!("sidecast-link-{}", std::process::id()));
        fs::create_dir(&folder).unwrap();
        let (path, precious) = (folder.join("state"), folder.join("precious"));
        fs::write(&precious, "precious").unwrap();
        let beside = folder.join(format!("state.{}", std::process::id()));
        symlink(&precious, &beside).unwrap();
        write(&path, "text").unwrap();
        assert_eq!(fs::read_to_string(&precious).unwrap(), "precious");
        assert!(!path.is_symlink());
        // What a process of the same number left when it was killed.
        fs::write(&beside, "half").unwrap();
        write(&path, "text").unwrap();
        assert_eq!(read(&path, 100).unwrap().as_deref(), Some("text"));
        let pipe = folder.join("pipe");
        mkfifo(&pipe, Mode::S_IRWXU).unwrap();
        assert!(
            read(&pipe, 100)
                .unwrap_err()
                .to_string()
                .contains("no regular file")
        );
        fs::remove_dir_all(&folder).unwrap();
    }
}
