//! Kinds of message on a lane: the first byte of each message, before its prost encoding.

macro_rules! kinds {
    ($($(#[$doc:meta])* $name:ident = $value:literal),* $(,)?) => {
        /// The first byte of a lane message.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[repr(u8)]
        pub enum Kind { $($(#[$doc])* $name = $value),* }

        impl Kind {
            pub fn from_byte(byte: u8) -> Option<Self> {
                match byte { $($value => Some(Self::$name),)* _ => None }
            }
        }
    };
}

kinds! {
    /// [`crate::v1::DefineFunction`]
    DefineFunction = 1,
    /// [`crate::v1::LeaseContext`]
    LeaseContext = 2,
    /// [`crate::v1::PushTask`]
    PushTask = 3,
    /// [`crate::v1::TaskReply`]
    TaskReply = 4,
    /// [`crate::v1::EntriesReturned`]
    EntriesReturned = 5,
    /// [`crate::v1::GetObject`]
    GetObject = 6,
    /// [`crate::v1::ObjectValue`]
    ObjectValue = 7,
    /// [`crate::v1::BorrowAdd`]
    BorrowAdd = 8,
    /// [`crate::v1::BorrowRemove`]
    BorrowRemove = 9,
    /// [`crate::v1::FreeBlock`]
    FreeBlock = 10,
    /// [`crate::v1::Ping`]
    Ping = 11,
    /// [`crate::v1::CancelTask`]
    CancelTask = 12,
    /// [`crate::v1::CancelObject`]
    CancelObject = 13,
    /// [`crate::v1::GeneratorItem`]
    GeneratorItem = 14,
    /// [`crate::v1::GeneratorConsumed`]
    GeneratorConsumed = 15,
    /// [`crate::v1::WithdrawEntries`]
    WithdrawEntries = 16,
    /// [`crate::v1::CallsAcknowledged`]
    CallsAcknowledged = 17,
    /// [`crate::v1::Adopted`]
    Adopted = 18,
}
