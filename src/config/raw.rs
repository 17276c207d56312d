//! Single values of a configuration that may be invalid elsewhere.

use crate::schema::tree::{Node, Place, Tree};
use crate::schema::yaml;

/// A configuration as parsed YAML, valid or not.
pub struct RawConfig(Node);

impl RawConfig {
    /// `None` where the text is no YAML.
    pub fn read(text: &str) -> Option<Self> {
        yaml::parse(text, &|_| Place::Default).ok().map(Self)
    }

    /// The text of one key of a section; a list's items have commas between.
    pub fn text(&self, section: &str, key: &str) -> Option<String> {
        let node = &self.0.entry(section)?.node.entry(key)?.node;
        match &node.tree {
            Tree::List(items) => {
                let words: Option<Vec<&str>> = items.iter().map(Node::text).collect();
                Some(words?.join(","))
            }
            _ => node.text().map(str::to_owned),
        }
    }
}
