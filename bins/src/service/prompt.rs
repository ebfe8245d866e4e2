//! Questions to the person at the terminal.

use std::io::{self, BufRead, Write};

/// How often an answer that is none is asked for again.
const TRIES: u32 = 3;

/// Longest answer that is read, in bytes.
const ANSWER_BYTES_MAX: u64 = 4096;

/// Asks until there is an answer, three times at most. Nothing, the end of the input and three answers that are
/// none mean no.
///
/// # Errors
/// Of the input or output.
pub fn confirm(question: &str, input: &mut impl BufRead, output: &mut impl Write) -> io::Result<bool> {
    for _ in 0..TRIES {
        write!(output, "{question} Continue? [y/n]: ")?;
        output.flush()?;
        match answer(input)?.as_str() {
            "y" | "Y" => return Ok(true),
            "n" | "N" | "" => return Ok(false),
            _ => writeln!(output, "Please press either 'y' or 'n'")?,
        }
    }
    Ok(false)
}

/// Asks for one line.
///
/// # Errors
/// Of the input or output.
pub fn ask(question: &str, input: &mut impl BufRead, output: &mut impl Write) -> io::Result<String> {
    write!(output, "{question}")?;
    output.flush()?;
    answer(input)
}

/// One line, with the blanks it has.
///
/// # Errors
/// Of the input; `InvalidData` for a line that is too long or not UTF-8.
pub fn line(input: &mut impl BufRead) -> io::Result<String> {
    let mut line = String::new();
    io::Read::take(input, ANSWER_BYTES_MAX).read_line(&mut line)?;
    if line.len() as u64 == ANSWER_BYTES_MAX {
        let text = format!("the line is longer than {ANSWER_BYTES_MAX} bytes");
        return Err(io::Error::new(io::ErrorKind::InvalidData, text));
    }
    Ok(line.trim_end_matches(['\r', '\n']).to_owned())
}

/// Asks for one line that the terminal does not show.
///
/// # Errors
/// Of the terminal.
#[cfg(unix)]
pub fn ask_unseen(question: &str) -> io::Result<String> {
    use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};

    /// Shows again, whatever happens.
    struct Shown(Termios);
    impl Drop for Shown {
        fn drop(&mut self) {
            let _ = tcsetattr(io::stdin(), OptionalActions::Now, &self.0);
        }
    }

    let shown = Shown(tcgetattr(io::stdin())?);
    let mut unseen = shown.0.clone();
    unseen.local_modes.remove(LocalModes::ECHO);
    unseen.local_modes.insert(LocalModes::ECHONL);
    tcsetattr(io::stdin(), OptionalActions::Flush, &unseen)?;
    eprint!("{question}");
    line(&mut io::stdin().lock())
}

/// Asks for one line.
///
/// # Errors
/// Of the terminal.
#[cfg(not(unix))]
pub fn ask_unseen(question: &str) -> io::Result<String> {
    eprint!("{question}");
    line(&mut io::stdin().lock())
}

fn answer(input: &mut impl BufRead) -> io::Result<String> {
    let mut line = String::new();
    io::Read::take(input, ANSWER_BYTES_MAX).read_line(&mut line)?;
    Ok(line.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(input: &str) -> (bool, String) {
        let mut output = Vec::new();
        let yes = confirm("Really?", &mut input.as_bytes(), &mut output).unwrap();
        (yes, String::from_utf8(output).unwrap())
    }

    #[test]
    fn answers_are_those_of_the_reference() {
        for (input, yes) in
            [("y\n", true), ("Y", true), ("n\n", false), ("N\n", false), ("\n", false), ("", false)]
        {
            assert_eq!(answered(input), (yes, "Really? Continue? [y/n]: ".to_owned()), "{input:?}");
        }
    }

    #[test]
    fn an_answer_that_is_none_is_asked_for_again_twice() {
        let hint = "Please press either 'y' or 'n'\n";
        let question = "Really? Continue? [y/n]: ";
        assert_eq!(answered("yes\nno\ny\n"), (true, format!("{question}{hint}{question}{hint}{question}")));
        assert!(!answered("a\nb\nc\ny\n").0);
    }
}
