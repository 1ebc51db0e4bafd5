use super::{Memo, Normalised, normalise};

#[track_caller]
fn check(statement: &str, fingerprint: &str, summary: &str) {
    let mut found = Normalised::default();
    normalise(statement, &mut found);
    assert_eq!((found.fingerprint.as_str(), found.summary.as_str()), (fingerprint, summary), "{statement}");
}

#[track_caller]
fn check_fingerprint(statement: &str, fingerprint: &str) {
    let mut found = Normalised::default();
    normalise(statement, &mut found);
    assert_eq!(found.fingerprint, fingerprint, "{statement}");
}

#[track_caller]
fn check_masked(statement: &str, masked: &str) {
    let mut found = Normalised::default();
    normalise(statement, &mut found);
    assert_eq!(found.masked, masked, "{statement}");
}

#[test]
fn statements() {
    check("SELECT * FROM t WHERE id = 5 AND name='x'", "select * from t where id = ? and name=?", "SELECT t");
    check("select a from t where a in (1, 2,3) limit 5", "select a from t where a in(?+) limit ?", "SELECT t");
    check("insert into shop.t (a,b) values (1,'x'), (2, \"y\")", "insert into shop.t (a,b) values(?+)", "INSERT shop.t");
    check("/* trace */ UPDATE t -- why\n SET a = -1.5e3", "update t set a = ?", "UPDATE t");
    check("SELECT a.x FROM a JOIN `b c` ON a.i = `b c`.i", "select a.x from a join `b c` on a.i = `b c`.i", "SELECT a b c");
    check("DELETE FROM a, b WHERE 1", "delete from a, b where ?", "DELETE a b");
    check("use shop", "use ?", "USE");
    check("call p(1, 'x')", "call p", "CALL");
    check("", "", "");
}

#[test]
fn fingerprints_are_those_of_pt_fingerprint() {
    for (statement, fingerprint) in [
        ("select t1.x, t1.a2 from users_2009", "select t?, t? from users_?"),
        ("select 5-3, a-b, a - 1, count(*)+2", "select ?, a?, a ? ?, count(*)?"),
        ("select x'4d', X'4d', b'01', n'a', _utf8'a', .5, t.5", "select ?, x?, ?, n?, _utf??, ?, t?"),
        ("select 0x1f, 1E5, 1e5", "select ?, ?e?, ?"),
        ("select null, is_null, `null` from t where a is NULL", "select ?, is_null, `?` from t where a is ?"),
        ("select true, false", "select true, false"),
        ("select a from t where b in (.5, x'41', null, ?)", "select a from t where b in(?+)"),
        ("select a from t where b in (select 1)", "select a from t where b in (select ?)"),
        ("insert into t values (1, now()), (2, now())", "insert into t values (?, now())"),
        ("insert into t values (1, 2), (3, 4) on duplicate key update a = 1", "insert into t values(?+)"),
        ("insert into t select a from b where c in (1), (2)", "insert into t select a from b where c in(?+)"),
        ("select a from t union select a from t union select a from t", "select a from t /*repeat union*/"),
        ("select 1 union all select 2 limit 3", "select ? /*repeat union all*/ limit ?"),
        ("select a from t limit 5, 10", "select a from t limit ?"),
        ("select a from t limit 5 offset 10", "select a from t limit ?"),
        ("select a from t order by a asc, b desc, c ASC", "select a from t order by a, b desc, c"),
        ("select/*c*/1", "select?"),
        ("select /*+ hint */ /*!40001 SQL_NO_CACHE */ a", "select /*!? sql_no_cache */ a"),
        ("select 5--3 as a\n, 1", "select ? , ?"),
        ("select 5--3 as 'a', 1", "select ? as ?, ?"),
        ("select 1 /*shop.items:1/5*/", "percona-toolkit"),
        ("SELECT /*!40001 SQL_NO_CACHE */ * FROM `t`", "mysqldump"),
        ("administrator command: Init DB", "administrator command: Init DB"),
        ("use  shop", "use shop"),
        ("CALL shop.p2('x')", "call shop.p2"),
        ("call p (1, 2)", "call p (?, ?)"),
    ] {
        check_fingerprint(statement, fingerprint);
    }
}

/// Where pt-fingerprint would show a literal, or is plainly wrong (docs/protocols.md).
#[test]
fn fingerprints_that_differ_from_pt_fingerprint() {
    for (statement, fingerprint) in [
        ("select 'it''s', \"a\"\"b\"", "select ?, ?"),
        ("select 'a\\\\', 'b'", "select ?, ?"),
        ("select '5\" pipe', '6\" pipe'", "select ?, ?"),
        ("select 'a /* b', 'c */ d'", "select ?, ?"),
        ("select 'abc", "select ?"),
        ("select 1 /* abc", "select ?"),
        ("select/**/1, 2 /* c */", "select?, ?"),
        ("select 1 -- it's", "select ?"),
        ("select 0xAB", "select ?"),
        ("insert into t values ('a), (b', 1), (2)", "insert into t values(?+)"),
        ("call p('a(b', 2)", "call p"),
        ("call 'x'('y')", "call ?(?)"),
        ("administrator command: 'x'", "administrator command: ?"),
        ("select `a'b'c`", "select ?"),
        ("select 1 ; ", "select ?"),
    ] {
        check_fingerprint(statement, fingerprint);
    }
}

#[test]
fn masked_statements() {
    check_masked("SELECT  a1, 5 FROM t WHERE b='x' -- c\n AND d = -1.5e3", "SELECT  a1, ? FROM t WHERE b=?  \n AND d = -?");
    check_masked("select 1st_column, 1.5alias, 1e5e, 0xAB, x'AB', null, TRUE", "select 1st_column, ?alias, ?e, ?, ?, ?, ?");
    check_masked("select 5--3 from t", "select ?--? from t");
    check_masked("insert into t values (1), (2) ;\n", "insert into t values (?), (?)");
    check_masked("select `a``b`, `c'd'", "select `a``b`, `c?");
}

#[test]
fn no_literal_is_left() {
    let mut found = Normalised::default();
    for statement in [
        "select 'it''s secret', \"secret\\\"secret\", x'5ec2e7', 5ecre7",
        "insert into t values ('secret",
        "insert into t values ('a), (secret', 1), ('secret', 2)",
        "select 1 /* secret */ # secret",
        "select 1 /* secret",
        "select 1 -- secret",
        "select 1 -- it's secret",
        "select 1 # it's secret",
        "set password = 'secret'",
        "select _utf8'secret', N'secret'",
        "select 'a\\\\', 'secret'",
        "select '\"', 'secret', '\"'",
        "select \"it's\", 'secret'",
        "select '/*', 'secret', '*/', 'secret'",
        "select '--', 'secret'\n, '#', 'secret'",
        "call p('x(secret(', 'secret')",
        "call 'secret'(1)",
        "call p/*secret*/(1)",
        "administrator command: 'secret'",
        "use 'secret'",
        "select `a from t where b = 'secret'",
        "select ` from t where a = 'secret' and `b` = 'secret'",
        "select 1 /*a.b:1/5*/ 'secret'",
        "SELECT /*!40001 SQL_NO_CACHE */ * FROM `t` where a = 'secret'",
        "select /*!50000 'secret' */ 1",
        "'secret' select",
    ] {
        normalise(statement, &mut found);
        for text in [&found.masked, &found.fingerprint, &found.summary, &found.operation] {
            assert!(!text.contains("secret"), "{statement}: {text}");
        }
    }
    normalise("select 0xDEADBEEF, 0XDEADBEEF, x'DEADBEEF'", &mut found);
    assert!(!found.masked.contains("DEAD") && !found.fingerprint.contains("dead"), "{found:?}");
}

#[test]
fn long_statements_are_bounded() {
    let mut found = Normalised::default();
    let columns = "column_name, ".repeat(2000);
    normalise(&format!("select {columns} x from t"), &mut found);
    assert_eq!(found.fingerprint.len(), 2048);
    // What folds is folded first: rows, lists, unions.
    let list = "'é', ".repeat(20_000);
    normalise(&format!("select a from t where b in ({list} 1) and c = 2"), &mut found);
    assert_eq!(found.fingerprint, "select a from t where b in(?+) and c = ?");
    normalise(&format!("insert into t values {} (1, 2)", "(1, 2), ".repeat(20_000)), &mut found);
    assert_eq!(found.fingerprint, "insert into t values(?+)");
    let union = ["select a, b from some_table where c = 1"; 100].join(" union all ");
    normalise(&union, &mut found);
    assert_eq!(found.fingerprint, "select a, b from some_table where c = ? /*repeat union all*/");
    // What looks like a list and is none.
    normalise(&format!("select a in ({}x", "?, ".repeat(20_000)), &mut found);
    assert_eq!(found.fingerprint.len(), 2048);
    normalise(&"é".repeat(3000), &mut found);
    assert_eq!(found.fingerprint.chars().count(), 1024);
    normalise(&"x".repeat(3000), &mut found);
    assert!(found.operation.len() <= 32 && found.summary.len() <= 255, "{found:?}");
}

#[test]
fn the_memo_keeps_statements_apart() {
    let mut memo = Memo::default();
    for round in 0..3 {
        for number in 0..2000 {
            let statement = format!("select {round} from t{number}x");
            assert_eq!(memo.normalise(&statement).summary, format!("SELECT t{number}x"));
        }
    }
}
