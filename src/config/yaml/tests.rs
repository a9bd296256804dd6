//! Well-formed and broken YAML, and what is said of it.

use std::env::VarError;

use proptest::prelude::*;

use super::*;

fn lookup(name: &str) -> Result<String, VarError> {
    match name {
        "PORT" => Ok("8000".into()),
        "EMPTY" => Ok(String::new()),
        "TEXT" => Ok("a: [b".into()),
        _ => Err(VarError::NotPresent),
    }
}

fn read(bytes: &[u8]) -> (Option<Node>, String) {
    let mut faults = Vec::new();
    let tree = parse(&"c.yaml".into(), bytes, &lookup, &mut faults);
    (tree, faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))
}

/// The tree, one value a line with its line number.
fn outline(node: &Node, path: &str, out: &mut Vec<String>) {
    match &node.value {
        Value::List(items) => {
            out.push(format!("{} {path}: list", node.line));
            for (i, item) in items.iter().enumerate() {
                outline(item, &format!("{path}.{i}"), out);
            }
        }
        Value::Map(entries) => {
            out.push(format!("{} {path}: map", node.line));
            for (key, node) in entries {
                outline(node, &format!("{path}.{}@{}", key.name, key.line), out);
            }
        }
        other => out.push(format!("{} {path}: {other:?}", node.line)),
    }
}

#[test]
fn values_keep_their_lines() {
    let text = "# a comment\r\nllm:\r\n  endpoints: [{base_url: \"http://x:${PORT}/v1\"},\r\n    {base_url: y}]\n  \
                null_one:\n  port: ${PORT}\n  text: '${PORT}'\nlist:\n- a\n- b: 1\n  c: |\n    two\n    lines\n  \
                d: >-\n    folded\n    text\nempty: ${EMPTY}\nplain: several\n  lines\nlast: ${TEXT}\n";
    let (tree, faults) = read(text.as_bytes());
    assert_eq!(faults, "");
    let mut out = Vec::new();
    outline(&tree.expect("well-formed"), "", &mut out);
    insta::assert_snapshot!(out.join("\n"), @r#"
    1 : map
    2 .llm@2: map
    3 .llm@2.endpoints@3: list
    3 .llm@2.endpoints@3.0: map
    3 .llm@2.endpoints@3.0.base_url@3: Text("http://x:8000/v1")
    4 .llm@2.endpoints@3.1: map
    4 .llm@2.endpoints@3.1.base_url@4: Text("y")
    5 .llm@2.null_one@5: Null
    6 .llm@2.port@6: Int(8000)
    7 .llm@2.text@7: Text("8000")
    8 .list@8: list
    9 .list@8.0: Text("a")
    10 .list@8.1: map
    10 .list@8.1.b@10: Int(1)
    12 .list@8.1.c@11: Text("two\nlines\n")
    15 .list@8.1.d@14: Text("folded text")
    17 .empty@17: Null
    18 .plain@18: Text("several lines")
    20 .last@20: Text("a: [b")
    "#);
}

#[test]
fn plain_scalars_follow_the_core_schema() {
    let all: Vec<String> = [
        "~",
        "null",
        "Null",
        "nULL",
        "true",
        "False",
        "yes",
        "off",
        "0",
        "-12",
        "+3",
        "007",
        "0o17",
        "0xFF",
        "0x",
        "0b1",
        "1_000",
        "9223372036854775807",
        "9223372036854775808",
        "1.5",
        "-.5",
        "1.",
        "1e3",
        "1e",
        ".",
        "e5",
        "-",
        "+",
        ".inf",
        "-.INF",
        ".nan",
        "inf",
        "NaN",
        "1.2.3",
        "12:30",
        "1e999",
    ]
    .iter()
    .map(|text| format!("{text} {:?}", resolve_plain(text)))
    .collect();
    insta::assert_snapshot!(all.join("\n"), @r#"
    ~ Null
    null Null
    Null Null
    nULL Text("nULL")
    true Bool(true)
    False Bool(false)
    yes Text("yes")
    off Text("off")
    0 Int(0)
    -12 Int(-12)
    +3 Int(3)
    007 Text("007")
    0o17 Int(15)
    0xFF Int(255)
    0x Text("0x")
    0b1 Text("0b1")
    1_000 Text("1_000")
    9223372036854775807 Int(9223372036854775807)
    9223372036854775808 Text("9223372036854775808")
    1.5 Float(1.5)
    -.5 Float(-0.5)
    1. Float(1.0)
    1e3 Float(1000.0)
    1e Text("1e")
    . Text(".")
    e5 Text("e5")
    - Text("-")
    + Text("+")
    .inf Float(inf)
    -.INF Float(-inf)
    .nan Float(NaN)
    inf Text("inf")
    NaN Text("NaN")
    1.2.3 Text("1.2.3")
    12:30 Text("12:30")
    1e999 Float(inf)
    "#);
}

#[test]
fn what_is_not_well_formed_is_told_in_plain_words() {
    let deep = "- ".repeat(50_000);
    let flow = format!("a: {}", "[".repeat(50_000));
    let steps = (0..400).map(|i| format!("{}k:", " ".repeat(i))).collect::<Vec<_>>().join("\n");
    let texts: Vec<&[u8]> = vec![
        b"",
        b"# only a comment\n",
        b"just text",
        b"- a\n- b\n",
        b"null",
        b"a: 1\nb: 2\na: 3\nc: ${NONE}\n",
        b"a:\n\tb: 1\n",
        b"a: 1\n\tb: 2\n",
        b"a: b: c\n",
        b"a: 1\n  b: 2\n",
        b"a:\n    b: 1\n  c: 2\n",
        b"  a: 1\nb: 2\n",
        b"a: [1, 2\nb: 3\n",
        b"a: {b: 1\n",
        b"a: \"open\nb: 2\n",
        b"a: \"x\" y\n",
        b"a: \"\\q\"\n",
        b"a: @home\n",
        b"a: *all\n",
        b"a: &x 1\nb: *x\n",
        b"a: !!str 1\n",
        b"a: %x\n",
        b"a\nb: 1\n",
        b"a: 1\nb\n",
        b"[a, b]: 1\n",
        b"? {a: 1}\n: 2\n",
        b"a: 1\n---\nb: 2\n",
        b"{a: 1}\nb: 2\n",
        b"{a: 1} b\n",
        b"a: 1\nb: \0 2\nc: 3\n",
        b"a: 1\nb: \xff\n",
        b"a: 1\rb: 2\n",
        b"a: {url: ${HOST}}\n",
        b"a: ${NONE}\nb:\n  - ${PORT\n",
        deep.as_bytes(),
        flow.as_bytes(),
        steps.as_bytes(),
    ];
    let all: Vec<String> = texts
        .iter()
        .map(|bytes| {
            let shown: String = String::from_utf8_lossy(bytes).chars().take(30).collect();
            let (_, faults) = read(bytes);
            format!("{shown:?}\n  {}", faults.replace('\n', "\n  "))
        })
        .collect();
    insta::assert_snapshot!(all.join("\n"), @r##"
    ""
      c.yaml: the file is empty: it must hold keys and values
    "# only a comment\n"
      c.yaml: the file is empty: it must hold keys and values
    "just text"
      c.yaml:1: the file must be a map of keys and values
    "- a\n- b\n"
      c.yaml:1: the file must be a map of keys and values
    "null"
      c.yaml:1: the file must be a map of keys and values
    "a: 1\nb: 2\na: 3\nc: ${NONE}\n"
      c.yaml:3: the key `a` stands twice, first on line 1
      c.yaml:4: the environment variable `NONE` is not set: set it, or give a default as in `${NONE:-default}`
    "a:\n\tb: 1\n"
      c.yaml:2: tabs cannot indent: use spaces
    "a: 1\n\tb: 2\n"
      c.yaml:2: tabs cannot indent: use spaces
    "a: b: c\n"
      c.yaml:1: a `:` stands where none can: check the indentation, or quote the value
    "a: 1\n  b: 2\n"
      c.yaml:2: a `:` stands where none can: check the indentation, or quote the value
    "a:\n    b: 1\n  c: 2\n"
      c.yaml:3: a key is missing, or the indentation is wrong
    "  a: 1\nb: 2\n"
      c.yaml:2: this does not belong to what stands above it: check the indentation, and write one document a file
    "a: [1, 2\nb: 3\n"
      c.yaml:2: a `:` stands where none can: check the indentation, or quote the value
    "a: {b: 1\n"
      c.yaml:1: a map opened with `{` is not closed, or a `,` is missing
    "a: \"open\nb: 2\n"
      c.yaml:1: a quoted text is not closed, or its further lines are not indented
    "a: \"x\" y\n"
      c.yaml:1: something follows a quoted text: quote all of it or nothing
    "a: \"\\q\"\n"
      c.yaml:1: there is an unknown escape in a double-quoted text: write `\\` for a backslash
    "a: @home\n"
      c.yaml:1: a plain text cannot begin with this character: quote it
    "a: *all\n"
      c.yaml:1: anchors (`&name`) and aliases (`*name`) are not supported: quote the value if it is text
    "a: &x 1\nb: *x\n"
      c.yaml:1: anchors (`&name`) and aliases (`*name`) are not supported: write the value out
    "a: !!str 1\n"
      c.yaml:1: tags (`!name`) are not supported: quote the value if it is text
    "a: %x\n"
      c.yaml:1: a plain text cannot begin with this character: quote it
    "a\nb: 1\n"
      c.yaml:2: a `:` stands where none can: check the indentation, or quote the value
    "a: 1\nb\n"
      c.yaml:2: a `:` is missing behind a key, or the indentation is wrong
    "[a, b]: 1\n"
      c.yaml:1: a key must be a plain word
    "? {a: 1}\n: 2\n"
      c.yaml:1: a key must be a plain word
    "a: 1\n---\nb: 2\n"
      c.yaml:2: this does not belong to what stands above it: check the indentation, and write one document a file
    "{a: 1}\nb: 2\n"
      c.yaml:2: this does not belong to what stands above it: check the indentation, and write one document a file
    "{a: 1} b\n"
      c.yaml:1: this does not belong to what stands above it: check the indentation, and write one document a file
    "a: 1\nb: \0 2\nc: 3\n"
      c.yaml:2: there is an invisible control character (U+0000): delete it
    "a: 1\nb: �\n"
      c.yaml:2: this line is not UTF-8 text: save the file as UTF-8
    "a: 1\rb: 2\n"
      c.yaml:1: there is an invisible control character (U+000D): delete it
    "a: {url: ${HOST}}\n"
      c.yaml:1: a map opened with `{` is not closed, or a `,` is missing; in a flow list or map, a value with `${...}` needs quotes
    "a: ${NONE}\nb:\n  - ${PORT\n"
      c.yaml:1: the environment variable `NONE` is not set: set it, or give a default as in `${NONE:-default}`
      c.yaml:3: `${PORT` is not closed: a `}` is missing; a plain dollar is written `$$`
    "- - - - - - - - - - - - - - - "
      c.yaml:1: this line is indented by more than 250 columns
    "a: [[[[[[[[[[[[[[[[[[[[[[[[[[["
      c.yaml:1: lists and maps are nested too deep
    "k:\n k:\n  k:\n   k:\n    k:\n     "
      c.yaml:252: this line is indented by more than 250 columns
    "##);
}

#[test]
fn comments_and_markers_around_the_map_are_fine() {
    for text in [
        "---\na: 1\n",
        "\u{feff}a: 1",
        "a: 1\n# end\n",
        "{a: 1} # end\n\n",
        "{a: 1}",
        "a: 1\n\n  # c\n",
        "a: |\n  x\n# c",
    ] {
        let (tree, faults) = read(text.as_bytes());
        assert_eq!(faults, "", "{text:?}");
        assert_eq!(tree.expect(text).get("a").map(Node::place).map(|p| p.file), Some("c.yaml".into()));
    }
}

#[test]
fn deep_trees_within_the_limits_are_read() {
    let block = (0..125).map(|i| format!("{0}k:\n{0}-", "  ".repeat(i))).collect::<Vec<_>>().join("\n");
    let flow = format!("a: {}1{}", "[".repeat(200), "]".repeat(200));
    for text in [block, flow] {
        let (tree, faults) = read(text.as_bytes());
        assert_eq!(faults, "");
        assert!(tree.is_some());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_give_a_tree_or_a_fault(bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
        let (tree, faults) = read(&bytes);
        prop_assert!(tree.is_some() || !faults.is_empty());
    }

    #[test]
    fn anything_like_yaml_gives_a_tree_or_a_fault(text in "[ab:\\-?\\[\\]{},&*!|>'\"%@` #\n\t$~.1]{0,40}") {
        let (tree, faults) = read(text.as_bytes());
        prop_assert!(tree.is_some() || !faults.is_empty());
    }

    #[test]
    fn whole_numbers_and_text_come_back(number in any::<i64>(), float in any::<f64>(), text in "\\PC{0,20}") {
        prop_assert_eq!(resolve_plain(&number.to_string()), Value::Int(number));
        if float.is_finite() {
            prop_assert_eq!(resolve_plain(&format!("{float:e}")), Value::Float(float));
        }
        let json = serde_json::to_string(&text.replace('$', "$$")).expect("text");
        let (tree, faults) = read(format!("a: {json}\n").as_bytes());
        prop_assert_eq!(faults, "");
        prop_assert_eq!(tree.and_then(|t| t.get("a").cloned()).map(|n| n.value), Some(Value::Text(text)));
    }
}
