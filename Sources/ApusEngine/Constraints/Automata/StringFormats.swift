/// The formats of JSON Schema that are languages an automaton can hold.
enum StringFormats {
    /// What a format says of a string.
    enum Meaning {
        /// The string matches a pattern.
        case pattern(String)
        /// Nothing about its characters.
        case anyText
    }

    /// The meaning of a format, or nil where it is unknown.
    static func meaning(of name: String) -> Meaning? {
        if let pattern = patterns[name] { return .pattern("^(?:\(pattern))$") }
        return free.contains(name) ? .anyText : nil
    }

    /// All names, for messages.
    static var names: [String] { (Array(patterns.keys) + free).sorted() }

    private static let free: Set<String> = ["binary", "password", "path", "file-path", "directory-path"]

    // Years 0001 to 9999; 29 February in leap years alone.
    private static let year = "000[1-9]|00[1-9][0-9]|0[1-9][0-9]{2}|[1-9][0-9]{3}"
    private static let leapYear =
        "[0-9]{2}(?:0[48]|[2468][048]|[13579][26])|(?:0[48]|[2468][048]|[13579][26])00"
    private static let date =
        "(?:\(year))-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])|(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)"
        + "|02-(?:0[1-9]|1[0-9]|2[0-8]))|(?:\(leapYear))-02-29"
    private static let clock = "(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:\\.[0-9]{1,9})?"
    private static let zone = "(?:Z|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])"
    private static let label = "[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
    private static let byte = "(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
    private static let atom = "[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+"
    private static let hex = "[0-9A-Fa-f]"
    private static let uuid = "\(hex){8}-\(hex){4}-\(hex){4}-\(hex){4}-\(hex){12}"

    private static let patterns: [String: String] = [
        "date": date,
        "time": clock + zone,
        "date-time": "(?:\(date))T\(clock)\(zone)",
        "duration":
            "P(?:[0-9]{1,9}W|(?:[0-9]{1,9}Y)?(?:[0-9]{1,9}M)?[0-9]{1,9}D(?:T\(timeDuration))?"
            + "|(?:[0-9]{1,9}Y)?[0-9]{1,9}M|[0-9]{1,9}Y|T\(timeDuration))",
        "email": "\(atom)(?:\\.\(atom))*@\(label)(?:\\.\(label))+",
        "hostname": "\(label)(?:\\.\(label))*",
        "ipv4": "\(byte)(?:\\.\(byte)){3}",
        "ipv6":
            "(?:\(hex){1,4}:){7}\(hex){1,4}|(?:\(hex){1,4}:){1,6}:\(hex){1,4}|::(?:\(hex){1,4}:){0,5}\(hex){1,4}|::",
        "uri": "[A-Za-z][A-Za-z0-9+.-]*:(?://)?(?:[A-Za-z0-9._~!$&'()*+,;=:@/?#-]|%\(hex){2})+",
        "uuid": uuid, "uuid1": uuid, "uuid3": uuid, "uuid4": uuid, "uuid5": uuid,
        "byte": "(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?",
    ]

    private static let timeDuration =
        "(?:[0-9]{1,9}H(?:[0-9]{1,9}M(?:[0-9]{1,9}S)?)?|[0-9]{1,9}M(?:[0-9]{1,9}S)?|[0-9]{1,9}S)"
}
