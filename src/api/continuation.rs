//! Where an answer that is sent in chunks continues.

use std::rc::Rc;

use super::NatCounters;
use crate::app::AppName;
use crate::view::page::Selection;

/// Where an answer continues.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Continuation {
    pub(super) listing: Listing,
    /// The next of the families of metrics that apps have, or of the apps of the page.
    pub(super) next: usize,
    /// The last app that was shown, in that family.
    pub(super) after: Option<AppName>,
    pub(super) nat: Rc<NatCounters>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Listing {
    Apps,
    Metrics,
    /// The page, with the apps it shows.
    Page(Rc<Selection>),
}
