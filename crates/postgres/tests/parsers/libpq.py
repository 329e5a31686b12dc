"""Asks libpq: each line of the input is a JSON array of a question and its arguments, each line of the output the answer.

    ["parse", CONNINFO]         the options that are set, or a text that says why there are none
    ["password", CONNINFO]      the password that a connection would log in with
    ["login", CONNINFO, SQL]    the first column of the first row, or why there is none
"""
import ctypes, json, sys

libpq = ctypes.CDLL("libpq.so.5")


class Option(ctypes.Structure):
    _fields_ = [("keyword", ctypes.c_char_p), ("envvar", ctypes.c_char_p), ("compiled", ctypes.c_char_p), ("val", ctypes.c_char_p),
                ("label", ctypes.c_char_p), ("dispchar", ctypes.c_char_p), ("dispsize", ctypes.c_int)]


libpq.PQconninfoParse.restype = ctypes.POINTER(Option)
libpq.PQconninfoParse.argtypes = [ctypes.c_char_p, ctypes.POINTER(ctypes.c_char_p)]
for name, result in (("PQconnectStart", ctypes.c_void_p), ("PQconnectdb", ctypes.c_void_p), ("PQpass", ctypes.c_char_p),
                     ("PQexec", ctypes.c_void_p), ("PQgetvalue", ctypes.c_char_p), ("PQerrorMessage", ctypes.c_char_p)):
    getattr(libpq, name).restype = result


def parse(conninfo):
    error = ctypes.c_char_p()
    options = libpq.PQconninfoParse(conninfo.encode(), ctypes.byref(error))
    if not options:
        return error.value.decode()
    found, index = {}, 0
    while options[index].keyword:
        if options[index].val is not None:
            found[options[index].keyword.decode()] = options[index].val.decode()
        index += 1
    libpq.PQconninfoFree(options)
    return found


def password(conninfo):
    connection = ctypes.c_void_p(libpq.PQconnectStart(conninfo.encode()))
    found = libpq.PQpass(connection)
    libpq.PQfinish(connection)
    return found.decode()


def login(conninfo, sql):
    connection = ctypes.c_void_p(libpq.PQconnectdb(conninfo.encode()))
    result = ctypes.c_void_p(libpq.PQexec(connection, sql.encode()))
    value = libpq.PQgetvalue(result, 0, 0) if libpq.PQntuples(result) else libpq.PQerrorMessage(connection)
    libpq.PQclear(result)
    libpq.PQfinish(connection)
    return value.decode()


for line in sys.stdin:
    question, *arguments = json.loads(line)
    print(json.dumps({"parse": parse, "password": password, "login": login}[question](*arguments)))
