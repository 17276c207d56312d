//! Maintenance files: an app whose file exists is taken out of service. inotify tells of changes in
//! their folders; a folder that is not there yet is looked at every few seconds.

use super::Executor;
use crate::app::AppName;
use crate::core::Event;
use crate::io::blocking::Lane;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use smol::channel::{self, Receiver, Sender};
use smol::future::FutureExt;
use smol::{Async, Timer};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// The file of each app that has one.
pub type Files = BTreeMap<AppName, PathBuf>;

pub struct Maintenance {
    executor: Executor,
    events: Sender<Event>,
    watched: Rc<RefCell<BTreeMap<AppName, Watched>>>,
    /// `None` until the first app has a file.
    folders: Option<Folders>,
}

/// One app's file; dropped, it is looked at no longer.
struct Watched {
    path: PathBuf,
    /// Something changed: it is to be looked at.
    changed: Sender<()>,
    _task: smol::Task<()>,
}

/// What tells of changes in folders; `None`: they are only looked at.
#[derive(Clone)]
struct Folders(Option<Arc<Async<Inotify>>>);

impl Maintenance {
    pub fn new(executor: &Executor, events: Sender<Event>) -> Self {
        Self {
            executor: executor.clone(),
            events,
            watched: Rc::default(),
            folders: None,
        }
    }

    /// From now on these files count. An app that gave its file up, or has another one, starts afresh.
    pub fn watch(&mut self, mut files: Files) {
        let mut watched = self.watched.borrow_mut();
        watched.retain(|app, known| files.get(app) == Some(&known.path));
        files.retain(|app, _| !watched.contains_key(app));
        if files.is_empty() {
            return;
        }
        let folders = self.folders.get_or_insert_with(|| {
            let folders = Folders::open();
            let telling = tell_changes(folders.clone(), Rc::downgrade(&self.watched));
            self.executor.spawn(telling).detach();
            folders
        });
        for (app, path) in files {
            let (changed, changes) = channel::bounded(1);
            let (file, folders) = (path.clone(), folders.clone());
            let task = follow(app.clone(), file, folders, changes, self.events.clone());
            let _task = self.executor.spawn(task);
            watched.insert(
                app,
                Watched {
                    path,
                    changed,
                    _task,
                },
            );
        }
    }
}

/// Looks at one file whenever something changed. What cannot be told leaves the app as it was.
async fn follow(
    app: AppName,
    path: PathBuf,
    folders: Folders,
    changes: Receiver<()>,
    events: Sender<Event>,
) {
    let lane = Lane::of_many();
    let (mut known, mut told) = (false, None);
    loop {
        let (file, folders) = (path.clone(), folders.clone());
        let look = lane.run_within(LIMIT, move || {
            // First the watch, so that nothing is missed between the two.
            let watched = file.parent().is_some_and(|folder| folders.watch(folder));
            Ok((watched, file.try_exists()?))
        });
        let (watched, present, problem) = match look.await {
            Ok((watched, present)) => (watched, present, None),
            Err(error) => (false, known, Some(format!("{}: {error}", path.display()))),
        };
        let app = || app.clone();
        if present != std::mem::replace(&mut known, present) {
            let event = Event::Maintenance {
                app: app(),
                present,
            };
            // Without a receiver the agent is gone.
            let _ = events.send(event).await;
        }
        if problem != told {
            told = problem.clone();
            let _ = events
                .send(Event::MaintenanceUnclear {
                    app: app(),
                    problem,
                })
                .await;
        }
        let later = async {
            if watched {
                std::future::pending().await
            }
            Timer::after(LOOK_EVERY).await;
            Ok(())
        };
        if changes.recv().or(later).await.is_err() {
            return;
        }
    }
}

/// What changed does not matter: every file is looked at.
async fn tell_changes(folders: Folders, all: std::rc::Weak<RefCell<BTreeMap<AppName, Watched>>>) {
    let Folders(Some(inotify)) = folders else {
        return;
    };
    loop {
        let read = |inotify: &Inotify| inotify.read_events().map_err(io::Error::from);
        if let Err(error) = inotify.read_with(read).await {
            log::warn!("changes of maintenance files are not told any more: {error}");
            return;
        }
        let Some(all) = all.upgrade() else { return };
        for watched in all.borrow().values() {
            // A file that is to be looked at already shows this change too.
            let _ = watched.changed.try_send(());
        }
    }
}

impl Folders {
    fn open() -> Self {
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK);
        let inotify = inotify
            .map_err(io::Error::from)
            .and_then(Async::new_nonblocking);
        let inotify = inotify.inspect_err(|error| {
            log::warn!("maintenance files are looked at every {LOOK_EVERY:?}: {error}");
        });
        Self(inotify.ok().map(Arc::new))
    }

    /// Whether changes in the folder are told. Asking again for one that is watched changes nothing, and
    /// finds one that was made anew.
    fn watch(&self, folder: &Path) -> bool {
        let Some(inotify) = &self.0 else { return false };
        let flags = AddWatchFlags::IN_CREATE
            | AddWatchFlags::IN_DELETE
            | AddWatchFlags::IN_MOVE
            | AddWatchFlags::IN_DELETE_SELF
            | AddWatchFlags::IN_MOVE_SELF
            | AddWatchFlags::IN_ONLYDIR;
        let watched = inotify.get_ref().add_watch(folder, flags);
        let watched = watched.inspect_err(|error| {
            log::debug!("{}: not watched: {error}", folder.display());
        });
        watched.is_ok()
    }
}

/// How often folders are looked at that cannot be watched.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// How long a look may take before the file is said to hang.
const LIMIT: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_comes_and_goes_is_told_at_once() {
        let dir = std::env::temp_dir().join(format!("sidecast-maintenance-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let file = dir.join("dns");
        let executor = Executor::default();
        let (events, told) = channel::bounded(8);
        smol::block_on(executor.run(async {
            let mut maintenance = Maintenance::new(&executor, events);
            let app: AppName = "dns".parse().unwrap();
            std::fs::write(&file, "").unwrap();
            maintenance.watch(Files::from([(app, file.clone())]));
            let next = async || match told.recv().await.unwrap() {
                Event::Maintenance { present, .. } => present,
                other => panic!("{other:?}"),
            };
            assert!(next().await, "there from the start");
            std::fs::remove_file(&file).unwrap();
            assert!(!next().await);
            std::fs::write(&file, "").unwrap();
            assert!(next().await);
        }));
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
