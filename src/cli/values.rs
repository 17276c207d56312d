//! Values of the API's answers as texts for a terminal.

use serde_json::Value;

use crate::text::needs_escape;

/// The elements of a list; none where it is no list.
pub(super) fn items<'a>(of: &'a Value, key: &str) -> impl Iterator<Item = &'a Value> {
    of[key].as_array().into_iter().flatten()
}

/// A value as text. What came from a service's output must not reach the terminal as commands.
pub(super) fn text(value: &Value) -> String {
    let raw = match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    raw.chars()
        .map(|c| if needs_escape(c) { ' ' } else { c })
        .collect()
}
