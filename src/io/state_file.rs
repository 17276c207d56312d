//! Reads the state file, and writes it atomically.

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

/// The contents; `None` if it does not exist. A file longer than `limit` bytes is an error.
pub fn read(path: &Path, limit: usize) -> io::Result<Option<String>> {
    // O_NONBLOCK: opening a FIFO would wait for a writer; a regular file ignores it.
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
        return Err(io::Error::other("not a regular file"));
    }
    let mut text = String::new();
    let most = u64::try_from(limit).unwrap_or(u64::MAX).saturating_add(1);
    file.take(most).read_to_string(&mut text)?;
    if text.len() > limit {
        return Err(io::Error::other(format!("longer than {limit} bytes")));
    }
    Ok(Some(text))
}

/// Writes a temporary file and renames it, so that a crash leaves the old or the new contents.
pub fn write(path: &Path, text: &str) -> io::Result<()> {
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty());
    // Held open, so that all calls use the same directory even if it is renamed.
    let folder = File::open(folder.unwrap_or(Path::new(".")))?;
    let mut temporary = OsString::from(name);
    temporary.push(format!(".{}", std::process::id()));
    let written = write_new(&folder, &temporary, text)
        .and_then(|()| Ok(renameat(&folder, &*temporary, &folder, name)?));
    if written.is_err() {
        // It may not exist.
        let _ = unlinkat(&folder, &*temporary, UnlinkatFlags::NoRemoveDir);
    }
    written?;
    // Some file systems cannot sync a directory; the rename is then only as durable as they make it.
    let _ = folder.sync_all();
    Ok(())
}

/// Creates a new file of mode 0600. A file of this name that a crash left is deleted, and a symbolic link is
/// not followed.
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
        let temporary = folder.join(format!("state.{}", std::process::id()));
        symlink(&precious, &temporary).unwrap();
        write(&path, "text").unwrap();
        assert_eq!(fs::read_to_string(&precious).unwrap(), "precious");
        assert!(!path.is_symlink());
        // What a process of the same number left when it was killed.
        fs::write(&temporary, "half").unwrap();
        write(&path, "text").unwrap();
        assert_eq!(read(&path, 100).unwrap().as_deref(), Some("text"));
        let pipe = folder.join("pipe");
        mkfifo(&pipe, Mode::S_IRWXU).unwrap();
        assert!(
            read(&pipe, 100)
                .unwrap_err()
                .to_string()
                .contains("not a regular file")
        );
        fs::remove_dir_all(&folder).unwrap();
    }
}
