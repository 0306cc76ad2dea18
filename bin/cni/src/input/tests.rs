use std::io::Write;
use std::time::Duration;

use super::*;

const LONG: Duration = Duration::from_secs(60);

/// Reads what `write` puts into a pipe; the writer is closed when it returns.
fn reading(
    quiet: Duration,
    write: impl FnOnce(&mut io::PipeWriter) + Send + 'static,
) -> Result<Vec<u8>, InputError> {
    let (reader, mut writer) = io::pipe().unwrap();
    let thread = std::thread::spawn(move || write(&mut writer));
    let result = read_from(&reader, quiet);
    // The writer must see that nobody reads any more.
    drop(reader);
    thread.join().unwrap();
    result
}

#[test]
fn the_longest_input_is_read_and_a_longer_one_refused() {
    let all = reading(LONG, |pipe| pipe.write_all(&vec![b' '; LIMIT]).unwrap());
    assert_eq!(all.unwrap().len(), LIMIT);
    let more = reading(LONG, |pipe| drop(pipe.write_all(&vec![b' '; LIMIT + 5000])));
    let error = more.unwrap_err();
    assert!(matches!(error, InputError::TooLong), "{error}");
    assert!(error.to_string().ends_with("more than 8388608 bytes"));
}

#[test]
fn an_input_that_drips_for_ever_is_given_up() {
    let drip = |pipe: &mut io::PipeWriter| while pipe.write_all(b" ").is_ok() {};
    // It is never quiet, and long before it is too long the time is over. (A busy machine may make it quiet after all.)
    let error = reading(Duration::from_millis(50), drip).unwrap_err();
    assert!(
        matches!(error, InputError::Slow { .. } | InputError::Unending { .. }),
        "{error}"
    );
}

#[test]
fn silence_is_given_up() {
    let (reader, _writer) = io::pipe().unwrap();
    let error = read_from(&reader, Duration::from_millis(10)).unwrap_err();
    assert!(
        matches!(error, InputError::Unending { got: 0, .. }),
        "{error}"
    );
}
