//! Standard output. A closed pipe is no error; a full device is one.

use super::Failure;
use std::io::{self, ErrorKind, Write};

/// Writes and flushes a text.
///
/// # Errors
/// Exit code 1 where the device takes no more.
pub fn say(text: &str) -> Result<(), Failure> {
    write(&mut io::stdout().lock(), text).map(drop)
}

/// `false`: the pipe was closed.
///
/// # Errors
/// As [`say`].
pub fn write(out: &mut impl Write, text: &str) -> Result<bool, Failure> {
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(Failure::run(format!("sidecast: standard output: {error}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Refuses(ErrorKind);

    impl Write for Refuses {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(self.0.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_reader_that_has_gone_is_told_from_a_full_device() {
        assert!(write(&mut Vec::new(), "x").unwrap());
        assert!(!write(&mut Refuses(ErrorKind::BrokenPipe), "x").unwrap());
        let failure = write(&mut Refuses(ErrorKind::StorageFull), "x").unwrap_err();
        assert_eq!(failure.code, 1);
        assert!(failure.message.contains("standard output"), "{failure}");
    }
}
