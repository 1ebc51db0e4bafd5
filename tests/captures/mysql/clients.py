"""Client side of make.sh: each function is one scenario; the expected records are in the decoder's tests."""
import ctypes
import sys

HOST = dict(host="127.0.0.1", port=3306, user="pt", password="secret", ssl_disabled=True)


def pymysql():
    import pymysql
    from pymysql.constants import CLIENT
    connection = pymysql.connect(**HOST, database="shop", client_flag=CLIENT.MULTI_STATEMENTS, charset="utf8mb4")
    cursor = connection.cursor()
    cursor.execute("SELECT id, name FROM items WHERE id <= %s", (7,))
    cursor.execute("SELECT * FROM items WHERE id = -1")
    cursor.execute("INSERT INTO items VALUES (200, 'two hundred', 2, NULL), (201, 'again', 3, NULL)")
    cursor.execute("DELETE FROM items WHERE id >= 200")
    connection.commit()
    cursor.execute("SELECT 1; UPDATE items SET price = price WHERE id < 4; SELECT id FROM items WHERE id < 3")
    while cursor.nextset():
        pass
    cursor.execute("CALL two_results()")
    while cursor.nextset():
        pass
    for wrong in ["SELECT nothing FROM items", "SELECT * FROM missing", "INSERT INTO items (id, name) VALUES (1, 'twice')"]:
        try:
            cursor.execute(wrong)
        except pymysql.MySQLError as error:
            print(error)
    connection.ping(reconnect=False)
    connection.select_db("other")
    cursor.execute("SELECT DATABASE()")
    connection.select_db("shop")
    cursor.execute("SELECT id, data FROM blobs")
    cursor.execute("SELECT 'gr\u00fc\u00df \u4f60\u597d'")
    cursor.execute("SELECT /* padding " + "p" * 4000 + " */ COUNT(*) FROM items")
    connection.close()


def infile():
    import pymysql
    connection = pymysql.connect(**HOST, database="shop", local_infile=True)
    cursor = connection.cursor()
    cursor.execute("LOAD DATA LOCAL INFILE 'rows.csv' INTO TABLE items FIELDS TERMINATED BY ',' (id, name)")
    cursor.execute("DELETE FROM items WHERE id > 1000")
    connection.commit()
    connection.close()


def error_in_rows():
    import pymysql
    connection = pymysql.connect(**HOST, database="shop")
    cursor = connection.cursor()
    try:
        cursor.execute("SET STATEMENT max_statement_time = 0.3 FOR SELECT id, REPEAT('r', 9000), SLEEP(IF(id > 5, 0.2, 0)) FROM items ORDER BY id")
    except pymysql.MySQLError as error:
        print(error)
    cursor.execute("SELECT 2")
    connection.close()


def latin1():
    import pymysql
    connection = pymysql.connect(**HOST, database="shop", charset="latin1")
    cursor = connection.cursor()
    cursor.execute("SELECT 'gr\u00fc\u00df'")
    try:
        cursor.execute("SELECT gr\u00fc\u00df FROM items")
    except pymysql.MySQLError as error:
        print(error)
    connection.close()


def multibyte(charset):
    # 0x5c, a backslash, is the second byte of the letters here: in GBK of U+8A93, in Shift_JIS of U+8868.
    import pymysql
    letters = {"gbk": "\u8a93\u4f60\u597d", "sjis": "\u8868\u793a"}[charset]
    connection = pymysql.connect(**HOST, database="shop", charset=charset)
    cursor = connection.cursor()
    cursor.execute(f"SELECT '{letters}', 'secret'")
    cursor.execute(f"SELECT name FROM items WHERE name = '{letters}'")
    try:
        cursor.execute(f"SELECT {letters} FROM items")
    except pymysql.MySQLError as error:
        print(error)
    connection.close()


def identity():
    # Statement N gives N rows, changes N rows, or fails with N in its message.
    import pymysql
    connection = pymysql.connect(**HOST, database="shop", autocommit=True)
    cursor = connection.cursor()
    for number in range(1, 31):
        cursor.execute(f"SELECT /*{number}*/ id, REPEAT('r', {number * 3}) FROM items WHERE id <= {number}")
        cursor.execute(f"UPDATE /*{number}*/ items SET price = price + 1 WHERE id <= {number}")
        try:
            cursor.execute(f"SELECT /*{number}*/ wrong_{number} FROM items")
        except pymysql.MySQLError as error:
            print(error)
    connection.close()


def identity_prepared():
    import mysql.connector
    connection = mysql.connector.connect(**HOST, database="shop", use_pure=True)
    cursor = connection.cursor(prepared=True)
    for number in range(1, 31):
        cursor.execute("SELECT id, name FROM items WHERE id <= %s", (number,))
        cursor.fetchall()
    for number in range(31, 36):
        other = connection.cursor(prepared=True)
        other.execute(f"SELECT id, {number} FROM items WHERE id <= %s", (number,))
        other.fetchall()
        other.close()
    connection.close()


def too_many_connections():
    import pymysql
    open_ones = []
    try:
        for _ in range(30):
            open_ones.append(pymysql.connect(**HOST))
    except pymysql.MySQLError as error:
        print(error)
    for connection in open_ones:
        connection.close()


def prepared():
    import datetime
    import mysql.connector
    connection = mysql.connector.connect(**HOST, database="shop", use_pure=True)
    cursor = connection.cursor(prepared=True)
    for number in (3, 4, 5):
        cursor.execute("SELECT id, name FROM items WHERE id <= %s AND name <> %s", (number, "it's"))
        cursor.fetchall()
    cursor.execute("INSERT INTO items VALUES (%s, %s, %s, %s)", (300, "prepared", 1.5, datetime.datetime(2024, 5, 6, 7, 8, 9)))
    cursor.execute("DELETE FROM items WHERE id = %s", (300,))
    cursor.execute("SELECT 42")
    cursor.fetchall()
    for wrong, values in [("SELECT nothing FROM items WHERE id = %s", (1,)), ("INSERT INTO items (id, name) VALUES (%s, %s)", (1, "twice"))]:
        try:
            cursor.execute(wrong, values)
        except mysql.connector.Error as error:
            print(error)
    cursor.close()
    connection.cmd_init_db("other")
    connection.cmd_change_user("pt", "secret", "shop")
    connection.cmd_reset_connection()
    print(connection.cmd_statistics())
    connection.cmd_ping()
    connection.close()


def libmariadb():
    library = ctypes.CDLL("libmariadb.so.3")
    for name in ("mysql_init", "mysql_real_connect", "mysql_stmt_init"):
        getattr(library, name).restype = ctypes.c_void_p
    library.mysql_real_connect.argtypes = [ctypes.c_void_p] + [ctypes.c_char_p] * 4 + [ctypes.c_uint, ctypes.c_char_p, ctypes.c_ulong]
    library.mysql_stmt_init.argtypes = library.mysql_close.argtypes = [ctypes.c_void_p]
    for name in ("mysql_stmt_execute", "mysql_stmt_store_result", "mysql_stmt_fetch", "mysql_stmt_close", "mysql_stmt_free_result"):
        getattr(library, name).argtypes = [ctypes.c_void_p]
    for name in ("mysql_stmt_prepare", "mariadb_stmt_execute_direct"):
        getattr(library, name).argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t]
    library.mysql_stmt_attr_set.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p]
    connection = library.mysql_init(None)
    if not library.mysql_real_connect(connection, b"127.0.0.1", b"pt", b"secret", b"shop", 3306, None, 0):
        sys.exit("libmariadb cannot connect")
    return library, connection


def direct():
    library, connection = libmariadb()
    for text in (b"SELECT id, name FROM items WHERE id <= 6", b"UPDATE items SET price = price WHERE id = 1", b"SELECT nothing FROM items",
                 b"SELECT 7"):
        statement = library.mysql_stmt_init(connection)
        if library.mariadb_stmt_execute_direct(statement, text, len(text)) == 0:
            library.mysql_stmt_store_result(statement)
        library.mysql_stmt_close(statement)
    library.mysql_close(connection)


def cursor():
    library, connection = libmariadb()
    statement = library.mysql_stmt_init(connection)
    read_only, rows = ctypes.c_ulong(1), ctypes.c_ulong(4)
    library.mysql_stmt_attr_set(statement, 1, ctypes.byref(read_only))
    library.mysql_stmt_attr_set(statement, 2, ctypes.byref(rows))
    text = b"SELECT id FROM items WHERE id <= 10 ORDER BY id"
    library.mysql_stmt_prepare(statement, text, len(text))
    library.mysql_stmt_execute(statement)
    while library.mysql_stmt_fetch(statement) == 0:
        pass
    library.mysql_stmt_close(statement)
    library.mysql_close(connection)


class Bind(ctypes.Structure):
    # MYSQL_BIND of mariadb_stmt.h.
    _fields_ = [("length", ctypes.c_void_p), ("is_null", ctypes.c_void_p), ("buffer", ctypes.c_void_p), ("error", ctypes.c_void_p),
                ("indicator", ctypes.c_void_p), ("store", ctypes.c_void_p), ("fetch", ctypes.c_void_p), ("skip", ctypes.c_void_p),
                ("buffer_length", ctypes.c_ulong), ("offset", ctypes.c_ulong), ("length_value", ctypes.c_ulong),
                ("flags", ctypes.c_uint), ("pack_length", ctypes.c_uint), ("buffer_type", ctypes.c_int),
                ("error_value", ctypes.c_char), ("is_unsigned", ctypes.c_char), ("long_data_used", ctypes.c_char),
                ("is_null_value", ctypes.c_char), ("extension", ctypes.c_void_p)]


def bulk():
    library, connection = libmariadb()
    library.mysql_stmt_bind_param.argtypes = [ctypes.c_void_p, ctypes.c_void_p]
    library.mysql_stmt_error.restype, library.mysql_stmt_error.argtypes = ctypes.c_char_p, [ctypes.c_void_p]
    text = b"INSERT INTO items (id, name, price) VALUES (?, 'bulk', ?)"
    for numbers in ([2001, 2002, 2003, 2004, 2005], [2006], [2001, 2007]):
        count = len(numbers)
        prices = [b"1.50", b"", b"3.25", b"44", b"5"][:count]
        statement = library.mysql_stmt_init(connection)
        rows = ctypes.c_uint(count)
        library.mysql_stmt_attr_set(statement, 201, ctypes.byref(rows))
        library.mysql_stmt_prepare(statement, text, len(text))
        binds = (Bind * 2)()
        ids = (ctypes.c_int * count)(*numbers)
        texts = (ctypes.c_char_p * count)(*prices)
        lengths = (ctypes.c_ulong * count)(*map(len, prices))
        # STMT_INDICATOR_NULL for the second price.
        indicators = (ctypes.c_char * count)(*[1 if index == 1 else 0 for index in range(count)])
        plain = (ctypes.c_char * count)()
        binds[0].buffer, binds[0].buffer_type, binds[0].indicator = ctypes.addressof(ids), 3, ctypes.addressof(plain)
        binds[1].buffer, binds[1].buffer_type = ctypes.addressof(texts), 253
        binds[1].length, binds[1].indicator = ctypes.addressof(lengths), ctypes.addressof(indicators)
        library.mysql_stmt_bind_param(statement, binds)
        if library.mysql_stmt_execute(statement) != 0:
            print(library.mysql_stmt_error(statement))
        library.mysql_stmt_close(statement)
    text = b"DELETE FROM items WHERE id > 2000"
    library.mysql_real_query.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_ulong]
    library.mysql_real_query(connection, text, len(text))
    library.mysql_close(connection)


globals()[sys.argv[1]](*sys.argv[2:])
