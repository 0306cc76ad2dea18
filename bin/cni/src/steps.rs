//! What the plugin does that others see, by name, so that a test of the shipped program can end it before or after each.
//!
//! Armed by argument: a runtime passes none, its environment is inherited from whoever started it, and a network
//! configuration is a file that stays. Other arguments mean nothing here, as ever.

use std::ffi::OsString;

use tombolo_failpoint::{Refused, Table, points};

const TABLES: [Table; 1] = [POINTS];

points! {
    pub static POINTS;
    /// The request; over when the agent has answered.
    ADD_ASK = "add.ask";
    DEL_ASK = "del.ask";
    CHECK_ASK = "check.ask";
    GC_ASK = "gc.ask";
    STATUS_ASK = "status.ask";
    /// What a note says, in a file that has no name yet.
    NOTE_CONTENT = "note.content";
    NOTE_NAME = "note.name";
    /// Where there is a note already: a name for the new one, and that it takes the old one's place.
    NOTE_SPARE = "note.spare";
    NOTE_REPLACE = "note.replace";
    /// The result, or the error, for the runtime.
    ANSWER_PRINT = "answer.print";
}

/// Does what the arguments (without the program's name) ask for; whether that was all.
pub fn arguments(arguments: impl IntoIterator<Item = OsString>) -> Result<bool, Refused> {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    if tombolo_failpoint::list_if_asked(arguments.iter().cloned(), &TABLES) {
        return Ok(true);
    }
    if let [name, order] = arguments.as_slice()
        && name == "--failpoint"
    {
        tombolo_failpoint::arm(vec![order.to_string_lossy().parse()?], &TABLES)?;
    }
    Ok(false)
}
