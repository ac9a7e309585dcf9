//! A guide's marks: what its reader types, writes and sees, in the order of the page.
//!
//! A mark is an HTML comment before a block of code, so that no reader sees it:
//! - `file: PATH`: the block is this file,
//! - `type`: typed in the first terminal, where it must succeed,
//! - `look`: typed again and again until it prints what the next block says,
//! - `type in: NAME`: typed in another terminal, where it stays,
//! - `prints`, `prints in: NAME`: what the last typing printed, or that terminal shows; `...` stands for anything,
//! - `shown`: code that nobody types, with the reason behind a colon.
//!
//! `press Ctrl-C in: NAME` and `try: SCRIPT` need no block; the latter is typed by the story alone. `story: TEXT` is for those
//! who change the page. A block without a mark is an error. It decides nothing else and runs nothing; `main.rs` calls it.

use anyhow::{Context, Result, bail, ensure};

/// What a mark says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    File { path: String, text: String },
    Type(String),
    Look(String),
    TypeIn { terminal: String, text: String },
    CtrlC { terminal: String },
    Prints(String),
    PrintsIn { terminal: String, text: String },
    Try(String),
}

/// Every step with its line.
pub(crate) fn read(markdown: &str) -> Result<Vec<(usize, Step)>> {
    let mut steps = Vec::new();
    let mut lines = (1..).zip(markdown.lines());
    let mut mark: Option<(usize, String)> = None;
    while let Some((number, line)) = lines.next() {
        if let Some(begin) = line.strip_prefix("<!--") {
            let mut comment = begin.to_owned();
            while !comment.contains("-->") {
                let (_, more) =
                    lines.next().with_context(|| format!("line {number}: no end of the comment"))?;
                comment = format!("{comment}\n{more}");
            }
            let comment = comment.split("-->").next().unwrap_or_default().trim().to_owned();
            if comment.starts_with("story:") {
                continue;
            }
            if let Some(step) = alone(&comment) {
                steps.push((number, step));
                continue;
            }
            ensure!(mark.is_none(), "line {number}: two marks for one block");
            mark = Some((number, comment));
        } else if line.starts_with("```") {
            let mut text = String::new();
            loop {
                let (_, line) =
                    lines.next().with_context(|| format!("line {number}: no end of the block"))?;
                if line.starts_with("```") {
                    break;
                }
                text.push_str(line);
                text.push('\n');
            }
            let Some((_, mark)) = mark.take() else { bail!("line {number}: the block has no mark") };
            if !mark.starts_with("shown:") {
                let step = before_block(&mark, text);
                steps.push((number, step.with_context(|| format!("line {number}: {mark:?} is no mark"))?));
            }
        } else if let (false, Some((number, mark))) = (line.trim().is_empty(), &mark) {
            bail!("line {number}: no block follows {mark:?}");
        }
    }
    Ok(steps)
}

fn alone(comment: &str) -> Option<Step> {
    if let Some(terminal) = comment.strip_prefix("press Ctrl-C in: ") {
        return Some(Step::CtrlC { terminal: terminal.to_owned() });
    }
    Some(Step::Try(comment.strip_prefix("try:")?.to_owned()))
}

fn before_block(mark: &str, text: String) -> Option<Step> {
    let (mark, of) = mark.split_once(": ").unwrap_or((mark, ""));
    let of = of.to_owned();
    Some(match (mark, of.is_empty()) {
        ("file", false) => Step::File { path: of, text },
        ("type", true) => Step::Type(text),
        ("look", true) => Step::Look(text),
        ("type in", false) => Step::TypeIn { terminal: of, text },
        ("prints", true) => Step::Prints(text),
        ("prints in", false) => Step::PrintsIn { terminal: of, text },
        _ => return None,
    })
}

/// Whether `printed` is what the guide says. Blanks count as one; `...` is any text of its line, and alone any lines.
pub(crate) fn is_as_told(printed: &str, told: &str) -> bool {
    let words = |text: &str| -> Vec<String> {
        let lines = text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "));
        lines.filter(|line| !line.is_empty()).collect()
    };
    lines_fit(&words(printed), &words(told))
}

fn lines_fit(printed: &[String], told: &[String]) -> bool {
    match (printed, told) {
        ([], []) => true,
        (_, [any, rest @ ..]) if any == "..." => {
            (0..=printed.len()).any(|n| printed.get(n..).is_some_and(|after| lines_fit(after, rest)))
        }
        ([line, printed @ ..], [first, told @ ..]) => line_fits(line, first) && lines_fit(printed, told),
        _ => false,
    }
}

fn line_fits(line: &str, told: &str) -> bool {
    let mut parts = told.split("...");
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = line.strip_prefix(first) else { return false };
    let mut parts: Vec<&str> = parts.collect();
    let Some(last) = parts.pop() else { return rest.is_empty() };
    for part in parts {
        let Some((_, after)) = rest.split_once(part) else { return false };
        rest = after;
    }
    rest.ends_with(last)
}

#[test]
fn marks() -> Result<()> {
    let text = "# A\n<!-- file: a/b.rs -->\n```rust\nfn a() {}\n```\ntext\n<!-- type -->\n\n```sh\nls\nls a\n```\n\
                <!-- press Ctrl-C in: mapper -->\n<!-- try:\nfalse || true\n-->\n<!-- prints in: mapper -->\n```text\n```\n\
                <!-- shown: nobody has that file -->\n```toml\na\n```\n";
    let mapper = || "mapper".to_owned();
    let expected = [
        (3, Step::File { path: "a/b.rs".to_owned(), text: "fn a() {}\n".to_owned() }),
        (9, Step::Type("ls\nls a\n".to_owned())),
        (13, Step::CtrlC { terminal: mapper() }),
        (14, Step::Try("\nfalse || true".to_owned())),
        (18, Step::PrintsIn { terminal: mapper(), text: String::new() }),
    ];
    assert_eq!(read(text)?, expected);
    let check = |text: &str, expected: &str| {
        let wrong = read(text).map_or_else(|wrong| wrong.to_string(), |steps| format!("{steps:?}"));
        assert_eq!(wrong, expected);
    };
    check("```sh\n```\n", "line 1: the block has no mark");
    check("<!-- types -->\n```sh\n```\n", "line 2: \"types\" is no mark");
    check("<!-- type -->\n\nmore\n", "line 1: no block follows \"type\"");
    check("<!-- type -->\n```sh\n", "line 2: no end of the block");
    Ok(())
}

#[test]
fn what_is_told_stands_for_what_is_printed() {
    let check = |printed: &str, told: &str, expected: bool| {
        assert_eq!(is_as_told(printed, told), expected, "{printed:?} {told:?}");
    };
    check("a   b\n\n", "a b", true);
    check("a b c", "a b", false);
    check("a 12 c 3", "a ... c ...", true);
    check("a 12 d 3", "a ... c ...", false);
    check("a\nb\nc\nd", "...\nb\n...", true);
    check("a\nc\nd", "...\nb\n...", false);
    check("", "...", true);
    check("ab", "ab...b", false);
}
