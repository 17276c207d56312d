//! `sidecast reload`: makes the running announcer read its configuration again.

use std::io::Write;

use serde_json::Value;

use super::client::{ANSWER_TIMEOUT, Client};
use super::{Failure, output};

/// Prints what changed; errors in the configuration are exit code 2.
pub fn run(client: &Client, out: &mut impl Write) -> Result<u8, Failure> {
    let answer = client.call("POST", "/reload", &[], ANSWER_TIMEOUT)?;
    match answer.status {
        200 => {
            output::write(out, &changes(&answer.body))?;
            Ok(0)
        }
        400 => Err(Failure::usage(format!(
            "{}\nsidecast: nothing was changed",
            answer.reason()
        ))),
        _ => Err(answer.into_failure()),
    }
}

/// A line for each change of `{"changes": […]}`, or the text as it is.
fn changes(body: &str) -> String {
    let parsed: Option<Value> = serde_json::from_slice(body.as_bytes()).ok();
    let Some(list) = parsed
        .as_ref()
        .and_then(|v| v.get("changes"))
        .and_then(Value::as_array)
    else {
        return body.to_owned();
    };
    if list.is_empty() {
        return "nothing changed\n".to_owned();
    }
    let lines = list.iter().filter_map(Value::as_str);
    lines.map(|line| format!("{line}\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_lines() {
        assert_eq!(
            changes("{\"changes\":[\"app a added\",\"app b gone\"]}"),
            "app a added\napp b gone\n"
        );
        assert_eq!(changes("{\"changes\":[]}"), "nothing changed\n");
        assert_eq!(changes("text\n"), "text\n");
    }
}
