//! Enums of [`crate::vm`] as the API writes them.

/// Declares an enum for JSON and the OpenAPI document with the same variants as one of
/// [`crate::vm`], and the way from that one to it. A variant that is new below does not compile
/// until it is documented here.
macro_rules! mirror {
    (
        $(#[$attribute:meta])*
        $source:ident as $name:ident {
            $($(#[$variant_attribute:meta])* $variant:ident,)+
        }
    ) => {
        $(#[$attribute])*
        #[derive(Clone, Copy, Debug, serde::Serialize, utoipa::ToSchema)]
        #[serde(rename_all = "snake_case")]
        #[schema(as = $source)]
        pub(crate) enum $name {
            $($(#[$variant_attribute])* $variant,)+
        }

        impl From<crate::vm::$source> for $name {
            fn from(value: crate::vm::$source) -> Self {
                match value { $(crate::vm::$source::$variant => Self::$variant,)+ }
            }
        }
    };
}

pub(super) use mirror;
