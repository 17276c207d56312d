//! Maintenance files: an app whose file exists is taken out of service. inotify tells of changes in
//! their folders; a folder that is not there yet is looked at every few seconds.

use super::Executor;
use crate::app::AppName;
use crate::core::Event;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use smol::channel::{self, Receiver, Sender};
use smol::{Async, Timer};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The file of each app that has one.
pub type Files = BTreeMap<AppName, PathBuf>;

pub struct Maintenance {
    executor: Executor,
    events: Sender<Event>,
    /// `None` until the first app has a file.
    watcher: Option<(Sender<Files>, smol::Task<()>)>,
}

impl Maintenance {
    pub fn new(executor: &Executor, events: Sender<Event>) -> Self {
        Self {
            executor: executor.clone(),
            events,
            watcher: None,
        }
    }

    /// From now on these files count.
    pub fn watch(&mut self, files: Files) {
        if self.watcher.is_none() && files.is_empty() {
            return;
        }
        let (sender, _) = self.watcher.get_or_insert_with(|| {
            let (sender, receiver) = channel::unbounded();
            (
                sender,
                self.executor.spawn(run(receiver, self.events.clone())),
            )
        });
        // The task ends only when the agent does.
        let _ = sender.try_send(files);
    }
}

async fn run(newer: Receiver<Files>, events: Sender<Event>) {
    let mut files = Files::new();
    let mut present: BTreeSet<AppName> = BTreeSet::new();
    let mut folders = Folders::default();
    loop {
        let all_watched = folders.watch(files.values().filter_map(|file| file.parent()));
        for (app, file) in &files {
            let there = file.exists();
            let known = present.contains(app);
            if there == known {
                continue;
            }
            if there {
                present.insert(app.clone())
            } else {
                present.remove(app)
            };
            let event = Event::Maintenance {
                app: app.clone(),
                present: there,
            };
            if events.send(event).await.is_err() {
                return;
            }
        }
        let changed = async {
            folders.changed(all_watched).await;
            Ok(None)
        };
        let replaced = async { newer.recv().await.map(Some) };
        match smol::future::or(replaced, changed).await {
            Ok(Some(newer)) => {
                // An app that gave its file up, or has another one, starts afresh.
                present.retain(|app| newer.get(app) == files.get(app));
                files = newer;
            }
            Ok(None) => {}
            Err(_) => return,
        }
    }
}

/// The watched folders.
#[derive(Default)]
struct Folders {
    inotify: Option<Async<Inotify>>,
    watched: BTreeSet<PathBuf>,
}

impl Folders {
    /// Whether all of them can be watched.
    fn watch<'p>(&mut self, folders: impl Iterator<Item = &'p Path>) -> bool {
        let mut all = true;
        for folder in folders {
            if self.watched.contains(folder) && folder.exists() {
                continue;
            }
            match self.add(folder) {
                Ok(()) => {
                    self.watched.insert(folder.to_owned());
                }
                Err(error) => {
                    log::debug!("{}: not watched: {error}", folder.display());
                    self.watched.remove(folder);
                    all = false;
                }
            }
        }
        all
    }

    fn add(&mut self, folder: &Path) -> io::Result<()> {
        let inotify = match &mut self.inotify {
            Some(inotify) => inotify,
            None => {
                let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
                self.inotify.insert(Async::new_nonblocking(inotify)?)
            }
        };
        let flags = AddWatchFlags::IN_CREATE
            | AddWatchFlags::IN_DELETE
            | AddWatchFlags::IN_MOVE
            | AddWatchFlags::IN_DELETE_SELF
            | AddWatchFlags::IN_MOVE_SELF
            | AddWatchFlags::IN_ONLYDIR;
        inotify.get_ref().add_watch(folder, flags)?;
        Ok(())
    }

    /// Returns when something changed, or when it is time to look again.
    async fn changed(&self, all_watched: bool) {
        let told = async {
            match &self.inotify {
                Some(inotify) => {
                    // What changed does not matter: every file is looked at.
                    let _ = inotify
                        .read_with(|inotify| inotify.read_events().map_err(io::Error::from))
                        .await;
                }
                None => std::future::pending().await,
            }
        };
        let later = async {
            if all_watched {
                std::future::pending().await
            }
            Timer::after(LOOK_EVERY).await;
        };
        smol::future::or(told, later).await;
    }
}

/// How often folders are looked at that cannot be watched.
const LOOK_EVERY: Duration = Duration::from_secs(5);

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
