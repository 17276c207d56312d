//! A set that is made once, as a sorted slice.

use std::borrow::Borrow;
use std::collections::BTreeSet;
use std::fmt;
use std::ops::Deref;

/// An immutable set, as a sorted slice. It saves memory with a thousand apps: a node of a `BTreeSet` has room for
/// eleven elements, and most sets here have one.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct SmallSet<T>(Box<[T]>);

impl<T> Default for SmallSet<T> {
    fn default() -> Self {
        Self(Box::default())
    }
}

impl<T: Ord> SmallSet<T> {
    /// Whether the set holds `element`.
    pub fn contains<Q: Ord + ?Sized>(&self, element: &Q) -> bool
    where
        T: Borrow<Q>,
    {
        self.0
            .binary_search_by(|one| one.borrow().cmp(element))
            .is_ok()
    }
}

impl<T> Deref for SmallSet<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &self.0
    }
}

impl<T: fmt::Debug> fmt::Debug for SmallSet<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

impl<T: Ord> FromIterator<T> for SmallSet<T> {
    fn from_iter<I: IntoIterator<Item = T>>(elements: I) -> Self {
        let mut elements: Vec<T> = elements.into_iter().collect();
        elements.sort_unstable();
        elements.dedup();
        Self(elements.into())
    }
}

impl<T> From<BTreeSet<T>> for SmallSet<T> {
    fn from(set: BTreeSet<T>) -> Self {
        Self(set.into_iter().collect())
    }
}

impl<T: Ord, const N: usize> From<[T; N]> for SmallSet<T> {
    fn from(elements: [T; N]) -> Self {
        elements.into_iter().collect()
    }
}

impl<'a, T> IntoIterator for &'a SmallSet<T> {
    type Item = &'a T;
    type IntoIter = std::slice::Iter<'a, T>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl<T> IntoIterator for SmallSet<T> {
    type Item = T;
    type IntoIter = std::vec::IntoIter<T>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_vec().into_iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_a_set_in_order() {
        let set: SmallSet<String> = ["b", "a", "b"].map(str::to_owned).into();
        assert_eq!(set.iter().collect::<Vec<_>>(), ["a", "b"]);
        assert!(set.contains("a") && !set.contains("c"));
        assert_eq!(set, ["a", "b"].map(str::to_owned).into());
        assert_eq!(format!("{set:?}"), r#"{"a", "b"}"#);
        assert!(SmallSet::<u8>::default().is_empty());
        for numbers in [
            (0..20).rev().collect(),
            SmallSet::from((0..20).collect::<BTreeSet<u8>>()),
        ] {
            let even: SmallSet<u8> = numbers
                .into_iter()
                .filter(|number| number % 2 == 0)
                .collect();
            assert!((0..20).all(|number| even.contains(&number) == (number % 2 == 0)));
        }
    }
}
