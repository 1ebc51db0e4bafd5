//! Statements of every shape that applications send, from a seed: the same seed gives the same statements.

use podtap_tests::random::Random;

const TABLES: &[&str] = &[
    "items",
    "orders",
    "shop.items",
    "`order lines`",
    "users_2009",
    "log_2024_05",
    "t1",
    "`shop`.`t2`",
    "a",
    "archive_b",
    "`x1y2`",
    "Items",
];
const COLUMNS: &[&str] = &[
    "id",
    "name",
    "price",
    "o.id",
    "i.name",
    "t1.c1",
    "`first name`",
    "col_12",
    "b",
    "x",
    "hex",
    "UserName",
    "is_null",
    "null_count",
    "value",
    "ascii_code",
    "address2",
    "`null`",
    "`limit`",
    "invalues",
    "created_at",
    "a.b.c",
];
const NUMBERS: &[&str] = &[
    "1",
    "42",
    "-5",
    "+7",
    "1.5",
    "-0.25",
    ".5",
    "10.",
    "1e10",
    "1E10",
    "2.5e-3",
    "6.02E+23",
    "0x1f",
    "0xdeadbeef",
    "x'4D5A'",
    "X'4d'",
    "b'0101'",
    "B'1'",
    "0b01",
    "18446744073709551615",
    "- 3",
    "1 + 2",
    "5-3",
    "4*5",
];
const STRINGS: &[&str] = &[
    "'red'",
    "\"blue\"",
    "''",
    "\"\"",
    "'two words'",
    "'it\\'s'",
    "\"say \\\"hi\\\"\"",
    "'2024-05-06 07:08:09'",
    "'a,b'",
    "'(1)'",
    "'%x_'",
    "n'x'",
    "N'x'",
    "_utf8'x'",
    "_latin1'x'",
    "_utf8mb4'x'",
    "'grüß 你好'",
    "\"it's\"",
    "'null'",
    "'line\nbreak'",
    "'?'",
    "'in (1)'",
    "'`'",
    "DATE '2024-05-06'",
    "'a\\\\b'",
];
const OTHERS: &[&str] =
    &["NULL", "null", "?", "TRUE", "false", "@variable", "@@session.x", "NOW()", "DEFAULT", "CURRENT_TIMESTAMP", "$1", ":name"];
/// Where pt-fingerprint is known to differ.
const TRAPS: &[&str] = &[
    "'it''s'",
    "\"a\"\"b\"",
    "''''",
    "'back\\\\'",
    "'5\" pipe'",
    "'say \"hi'",
    "'a /* b'",
    "'c */ d'",
    "'-- x'",
    "'a # b'",
    "'), ('",
    "0xAB",
    "0xDEADbeef",
    "`a'b`",
];
const SPACES: &[&str] =
    &[" ", " ", " ", " ", " ", " ", "  ", "\n", "\t", "\r\n", "\n    ", " /* c */ ", "/*c2*/", " -- comment\n", " # comment 5\n"];
const TRAP_SPACES: &[&str] = &["/**/", " -- it's\n", " # say \"x\"\n", " /**/ "];

/// Makes statements.
pub struct Generator {
    random: Random,
    /// Whether this statement may hold what pt-fingerprint is known to differ in.
    traps: bool,
}

impl Generator {
    pub fn new(seed: u64) -> Self {
        Self { random: Random::new(seed), traps: false }
    }

    /// The next statement.
    pub fn statement(&mut self) -> String {
        self.traps = self.random.below(12) == 0;
        let statement = match self.random.below(20) {
            0..=5 => self.select(),
            6 => self.union(),
            7..=9 => self.insert(),
            10 | 11 => self.update(),
            12 => self.delete(),
            13 => self.call(),
            14 | 15 => self.command(),
            16 => self.definition(),
            17 => self.derived(),
            18 => self.dialect(),
            _ => self.soup(),
        };
        if self.traps { self.trap(statement) } else { statement }
    }

    fn of(&mut self, list: &[&str]) -> String {
        (*self.random.of(list)).to_owned()
    }

    fn some(&mut self, part: &str, of: u64) -> String {
        if self.random.below(of) == 0 { part.to_owned() } else { String::new() }
    }

    fn space(&mut self) -> String {
        if self.traps && self.random.below(20) == 0 { self.of(TRAP_SPACES) } else { self.of(SPACES) }
    }

    /// Words with white space of any kind between them, in any letter case.
    fn words(&mut self, words: &str) -> String {
        let mut text = String::new();
        for (index, word) in words.split(' ').enumerate() {
            if index > 0 {
                text.push_str(&self.space());
            }
            match self.random.below(3) {
                0 => text.push_str(&word.to_ascii_uppercase()),
                _ => text.push_str(word),
            }
        }
        text
    }

    fn value(&mut self) -> String {
        match self.random.below(10) {
            0..=3 => self.of(NUMBERS),
            4..=7 => self.of(STRINGS),
            8 if self.traps => self.of(TRAPS),
            _ => self.of(OTHERS),
        }
    }

    fn values(&mut self, count: u64) -> String {
        let between = self.of(&[",", ", ", ", ", " , "]);
        (0..count).map(|_| self.value()).collect::<Vec<_>>().join(&between)
    }

    fn columns(&mut self, most: u64) -> String {
        (0..=self.random.below(most)).map(|_| self.of(COLUMNS)).collect::<Vec<_>>().join(", ")
    }

    fn condition(&mut self) -> String {
        let column = self.of(COLUMNS);
        match self.random.below(11) {
            0..=3 => format!("{column}{}{}", self.of(&["=", " = ", " <> ", ">=", " < ", " LIKE ", "!="]), self.value()),
            4 => {
                let count = self.random.below(6);
                let (not, keyword, space) = (self.some(" NOT", 3), self.words("in"), self.of(&["", " ", " ", "\n"]));
                format!("{column}{not} {keyword}{space}({})", self.values(count))
            }
            5 => format!("{column} BETWEEN {} AND {}", self.value(), self.value()),
            6 => format!("{column} is{} {}", self.some(" not", 2), self.words("null")),
            7 => format!("{column} IN (SELECT {} FROM {} WHERE x = {})", self.of(COLUMNS), self.of(TABLES), self.value()),
            8 => format!("({column}, {}) in (({}), ({}))", self.of(COLUMNS), self.values(2), self.values(2)),
            9 => format!("{column}{}{}", self.of(&["+", "-", " - ", " * ", " % "]), self.value()),
            _ => format!("EXISTS (select 1 from {} where {column} = {})", self.of(TABLES), self.of(COLUMNS)),
        }
    }

    fn conditions(&mut self) -> String {
        let mut text = format!("{}{}{}{}", self.space(), self.words("where"), self.space(), self.condition());
        for _ in 0..self.random.below(3) {
            text += &format!("{}{}{}{}", self.space(), self.of(&["and", "OR", "AND"]), self.space(), self.condition());
        }
        text
    }

    fn select(&mut self) -> String {
        let mut text = format!("{}{}{}", self.words("select"), self.space(), self.some("DISTINCT ", 6));
        text += &match self.random.below(5) {
            0 => "*".to_owned(),
            1 => format!("COUNT(*), {}(price)", self.of(&["sum", "MAX", "avg"])),
            2 => format!("{} AS a1, {}", self.value(), self.columns(2)),
            _ => self.columns(4),
        };
        text += &format!("{}{}{}{}", self.space(), self.words("from"), self.space(), self.of(TABLES));
        text += &self.some(" AS i", 3);
        for _ in 0..self.random.below(3) {
            let join = self.of(&["join", "left join", "inner join", "left outer join", "cross join"]);
            let (left, right) = (self.of(COLUMNS), self.of(COLUMNS));
            text += &format!(" {} {} t{} on {left} = {right}", self.words(&join), self.of(TABLES), self.random.below(30));
        }
        if self.random.below(5) > 0 {
            text += &self.conditions();
        }
        if self.random.below(5) == 0 {
            text += &format!("{}{} {} HAVING COUNT(*) > {}", self.space(), self.words("group by"), self.columns(2), self.of(NUMBERS));
        }
        text + &self.order() + &self.limit() + &self.some(" FOR UPDATE", 12)
    }

    fn order(&mut self) -> String {
        if self.random.below(3) > 0 {
            return String::new();
        }
        let keys: Vec<String> = (0..=self.random.below(3))
            .map(|_| self.of(COLUMNS) + &self.of(&["", " asc", " ASC", " desc", "\nasc", " asc nulls first", "  ASC"]))
            .collect();
        format!("{}{} {}", self.space(), self.words("order by"), keys.join(", "))
    }

    fn limit(&mut self) -> String {
        let forms = [
            "limit 10",
            "limit 5,10",
            "limit 5, 10",
            "LIMIT 10 OFFSET 20",
            "limit ?",
            "limit ?, ?",
            "LIMIT ? OFFSET ?",
            "limit 5 , 10",
            "limit\n7",
        ];
        if self.random.below(3) == 0 { self.space() + &self.of(&forms) } else { String::new() }
    }

    fn union(&mut self) -> String {
        let first = self.select();
        let mut text = first.clone();
        for _ in 0..=self.random.below(4) {
            text += &self.of(&[" union ", " UNION ALL ", "\nunion all\n", " union distinct "]);
            text += &if self.random.below(3) == 0 { self.select() } else { first.clone() };
        }
        text
    }

    fn insert(&mut self) -> String {
        let verb = self.of(&["insert", "replace", "insert ignore", "insert low_priority", "insert delayed", "replace delayed"]);
        let (into, table) = (self.of(&[" into", " INTO", "\ninto", ""]), self.of(TABLES));
        let mut text = format!("{}{into}{}{table}", self.words(&verb), self.space());
        let count = 1 + self.random.below(5);
        match self.random.below(6) {
            0 => return text + &format!(" SET {} = {}, b = {}", self.of(COLUMNS), self.value(), self.value()),
            1 => return text + " " + &self.select(),
            2 => {}
            _ => text += &format!(" ({})", (0..count).map(|_| self.of(COLUMNS)).collect::<Vec<_>>().join(*self.random.of(&[",", ", "]))),
        }
        text += &format!("{}{}{}", self.space(), self.of(&["values", "VALUES", "VALUES", "value"]), self.of(&["", " ", " ", "\n"]));
        let between = self.of(&[",", ", ", ",\n  ", " , ", "/*c*/, "]);
        let rows: Vec<String> = (0..=self.random.below(5)).map(|_| format!("({})", self.values(count))).collect();
        let tail = self.of(&["", "", "", " ON DUPLICATE KEY UPDATE a = VALUES(a), b = 5", " on duplicate key update c1 = c1 + 1"]);
        text + &rows.join(&between) + &tail
    }

    fn update(&mut self) -> String {
        let set: Vec<String> = (0..=self.random.below(3)).map(|_| format!("{} = {}", self.of(COLUMNS), self.value())).collect();
        let head = format!("{}{}{}", self.words("update"), self.space(), self.of(TABLES));
        head + &self.space() + &self.words("set") + " " + &set.join(", ") + &self.conditions() + &self.order() + &self.limit()
    }

    fn delete(&mut self) -> String {
        let head = format!("{} {}", self.words("delete from"), self.of(TABLES));
        head + &self.conditions() + &self.order() + &self.limit()
    }

    fn call(&mut self) -> String {
        let (name, count) = (self.of(&["p", "shop.p2", "`p 3`", "`proc`", "Do_It"]), self.random.below(4));
        let trap = if self.traps { self.of(&["f(1), ", "'a(b', ", "((1)), "]) } else { String::new() };
        format!("{}{}{name}{}({trap}{})", self.words("call"), self.of(&[" ", "  "]), self.some(" ", 4), self.values(count))
    }

    fn command(&mut self) -> String {
        let number = self.random.below(100);
        let forms = [
            "use shop",
            "USE shop2",
            "use `my db`",
            "use  shop",
            "begin",
            "COMMIT",
            "rollback",
            "START TRANSACTION",
            "start transaction read only",
            "SET NAMES utf8mb4",
            "SET autocommit=0",
            "set @x = 'a', @y := 5",
            "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED",
            "SET character_set_results = NULL",
            "show tables like 'a%'",
            "SHOW VARIABLES WHERE Variable_name = 'version'",
            "SHOW CREATE TABLE `t1`",
            "show full columns from t2 from shop like '%'",
            "SHOW STATUS LIKE 'Threads_%'",
            "explain select 1",
            "SAVEPOINT sp1",
            "ROLLBACK TO SAVEPOINT sp1",
            "LOCK TABLES t1 READ, t2 WRITE",
            "unlock tables",
            "FLUSH TABLES",
            "KILL 4711",
            "xa start 'x1'",
            "administrator command: Ping",
            "administrator command: Init DB",
            "SELECT /*!40001 SQL_NO_CACHE */ * FROM `items`",
            "REPLACE /*shop.items:1/5*/ INTO checksums VALUES (1)",
            "SELECT @@version_comment LIMIT 1",
            "select last_insert_id()",
            "PREPARE s1 FROM 'select ?'",
            "EXECUTE s1 USING @a, @b",
            "deallocate prepare s1",
            "LOAD DATA LOCAL INFILE 'a.csv' INTO TABLE t1 FIELDS TERMINATED BY ','",
            "DESCRIBE users_2009",
            "OPTIMIZE TABLE log_2024_05",
            "do sleep(0.5)",
        ];
        let form = self.of(&forms);
        // Numbers make more of each; they are gone in the fingerprint.
        match self.random.below(2) {
            0 if form.contains('5') => form.replace('5', &number.to_string()),
            0 => format!("{form} /* {number} */"),
            _ => form,
        }
    }

    fn definition(&mut self) -> String {
        let (table, number) = (self.of(TABLES), self.random.below(1000));
        match self.random.below(7) {
            0 => format!(
                "CREATE TABLE {table} (id INT(11) NOT NULL AUTO_INCREMENT, name VARCHAR({number}) DEFAULT {}, KEY k{number} (name(10)))",
                self.value()
            ),
            1 => format!("create table if not exists {table}_{number} like {table}"),
            2 => format!("ALTER TABLE {table} ADD COLUMN c{number} DECIMAL(10,{}) NULL, DROP c2", number % 9),
            3 => format!("DROP TABLE IF EXISTS {table}, t{number}"),
            4 => format!("CREATE INDEX i{number} ON {table} (name ASC, price desc)"),
            5 => format!("TRUNCATE{} {table}", self.some(" TABLE", 2)),
            _ => format!(
                "ALTER TABLE {table} PARTITION BY RANGE (id) (PARTITION p{number} VALUES LESS THAN ({number}), PARTITION p VALUES IN (1))"
            ),
        }
    }

    fn derived(&mut self) -> String {
        let (inner, value) = (self.select(), self.value());
        match self.random.below(4) {
            0 => format!("SELECT x.* FROM ({inner}) AS x WHERE x.id = {value}"),
            1 => format!("with c1 as ({inner}) select * from c1 where id in ({value}, {value})"),
            2 => format!("({inner}) union ({inner}) limit 5"),
            _ => format!("select case when a = {value} then 1 else 'x' end, if(b, {value}, 0), concat('a', b, \"c\") from ({inner}) d1"),
        }
    }

    fn dialect(&mut self) -> String {
        let (column, value) = (self.of(COLUMNS), self.value());
        let forms = [
            format!("select data->'$.a[0].b', data->>\"$.c\" from t1 where data->'$.d' = {value}"),
            format!("SELECT /*+ NO_MERGE(t1) */ {column} FROM t1 WHERE id = {value}"),
            format!("/* service=shop,route=/items/5 */ select {column} from items where id = {value}"),
            format!(
                "select {column} from items where id = {value} /*traceparent='00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01'*/"
            ),
            format!(
                "select date_sub(now(), interval 5 day), {column} from t1 where created_at > now() - interval '1' hour and x = {value}"
            ),
            format!(
                "SELECT SQL_CALC_FOUND_ROWS `{}`.* FROM wp_posts WHERE 1=1 AND wp_posts.post_type IN ('post', 'page')",
                self.random.below(9)
            ),
            format!("select /*!40100 high_priority */ {column} from t1 where x={value} and y=-1 or z=+2"),
            format!("select a from t where b regexp '^[a-z]+$' and c = {value} collate utf8mb4_bin"),
            format!("select {column}, row_number() over (partition by a order by b asc) from t1 where c in({value})"),
            format!("SELECT * FROM t{} PARTITION (p0, p1) WHERE id = {value}", self.random.below(99)),
            format!("select a1--5 as x, {column} from t where b=5--3"),
            format!("insert into t_values (a, b) values ({value}, 1),(2, 3)"),
        ];
        self.random.of(&forms).clone()
    }

    /// Bytes that mean something, in no order that does.
    fn soup(&mut self) -> String {
        let pieces = [
            "a",
            "b",
            "x",
            "n",
            "0",
            "1",
            "9",
            ".",
            "-",
            "+",
            "?",
            ",",
            "(",
            ")",
            " ",
            " ",
            "in",
            "values",
            "value",
            "null",
            "limit 1",
            "select ",
            " union ",
            "order by ",
            " asc",
            "0x",
            "e",
            "@",
            "$",
            "_",
            "=",
            "*",
            "!",
            ";",
            "é",
            "\n",
        ];
        let first = self.of(&["select ", "set ", "a", "insert into t values ("]);
        let count = 1 + self.random.below(25);
        first + &(0..count).map(|_| self.of(&pieces)).collect::<String>() + "1"
    }

    /// Ends of statements where pt-fingerprint is known to differ.
    fn trap(&mut self, statement: String) -> String {
        let tail = self.of(&["", "", "", " ", ";", "\n", " ; ", " /* open", " and x = 'open", " -- say \"x\""]);
        statement + &tail
    }
}
